"""From draft to running: count who would get it, then freeze who gets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog
from django.db import OperationalError, transaction
from django.utils.timezone import now

from campaigns.models import Campaign
from engine.clock.schedules import enqueue
from engine.watch.incidents import open_incident
from messaging import audience
from messaging.actions.apart import Pieces
from messaging.actions.broadcasts import locked_broadcast
from messaging.actions.flow import settle_steps
from messaging.actions.senders import QUEUE
from messaging.models import Broadcast, BroadcastStep, MessageTemplate, Sender
from tenants.errors import ActionRefused
from tenants.models import Tenant
from tenants.scope import all_tenants

log = structlog.stdlib.get_logger("turnout.broadcasts")


@dataclass(slots=True, frozen=True)
class Preflight:
    """What a launch would do now. `errors` refuse it, `warnings` do not."""

    total: int
    sendable: int
    excluded: dict[str, int]
    us_marketing: int
    token_state: str
    steps: list[dict[str, Any]]
    estimated_seconds: float
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True, frozen=True)
class Launched:
    """What a launch did: `state` is running, or scheduled with nothing frozen yet."""

    state: str
    total: int
    excluded: dict[str, int]


def preflight_broadcast(*, broadcast_id: int) -> Preflight:
    """Count who would get it, who would not and why, and say what stands in the way. Changes nothing."""
    broadcast: Broadcast | None = (
        Broadcast.objects.select_related("tenant", "campaign", "sender__lane", "sender__provider_token")
        .filter(pk=broadcast_id)
        .first()
    )
    if broadcast is None:
        raise ActionRefused(f"There is no broadcast {broadcast_id}.")
    steps = _steps(broadcast)
    ctes, params = audience.ranked_sql(broadcast, steps)
    with audience.planned_for_many() as cursor:
        cursor.execute(
            f"WITH {ctes} SELECT reason, count(*), count(*) FILTER (WHERE phone LIKE '+1%%') "
            "FROM ranked GROUP BY reason",
            params,
        )
        counted = {reason: (count, us) for reason, count, us in cursor.fetchall()}
    sendable, us = counted.pop(None, (0, 0))
    excluded = {reason: counted[reason][0] for reason in audience.REASONS if reason in counted}
    marketing = any(step.template.category == MessageTemplate.Category.MARKETING for step in steps)
    rate = broadcast.sender.lane.rate_per_second or broadcast.sender.rate_per_second
    errors = obstacles(broadcast, steps)
    if not sendable:
        errors.append("Nobody in the audience can be sent to.")
    preflight = Preflight(
        total=sendable + sum(excluded.values()),
        sendable=sendable,
        excluded=excluded,
        us_marketing=us if marketing else 0,
        token_state=broadcast.sender.provider_token.state,
        steps=[
            {
                "position": step.position,
                "template": step.template_id,
                "name": step.template.name,
                "template_state": step.template.state,
                "share": step.share,
                "size": size,
            }
            for step, size in zip(steps, audience.sizes(sendable, steps), strict=True)
        ],
        estimated_seconds=round(sendable / rate, 1),
        errors=errors,
    )
    preflight.warnings.extend(_warnings(broadcast, steps, preflight))
    return preflight


@transaction.atomic
def launch_broadcast(*, broadcast_id: int) -> Launched:
    """Freeze the audience and start, or schedule when the time is still to come.

    The row is locked first, so of two launches at once the second finds it running and is refused.
    """
    broadcast = locked_broadcast(broadcast_id)
    if broadcast.state != Broadcast.State.DRAFT:
        raise ActionRefused(f"“{broadcast.name}” is {broadcast.state}: only a draft can be launched.")
    steps = _steps(broadcast)
    if errors := obstacles(broadcast, steps):
        raise ActionRefused(" ".join(errors))
    if broadcast.scheduled_at and broadcast.scheduled_at > now():
        broadcast.state = Broadcast.State.SCHEDULED
        broadcast.pause_detail = ""
        broadcast.save(update_fields=["state", "pause_detail"])
        return Launched(broadcast.state, 0, {})
    return _freeze(broadcast, steps)


def launch_due_broadcasts(pieces: Pieces | None = None) -> int:
    """Launch what was scheduled and is due, each in its own transaction; returns how many went out.

    One that cannot go out becomes a draft again and opens an incident that says why, whatever the reason. One
    whose row is locked, or that meets a deadlock, is tried again in the next minute.
    """
    pieces, launched = pieces or Pieces(), 0
    with all_tenants():
        for due in list(Broadcast.objects.due(now()).values_list("pk", "tenant_id", "name")):
            with pieces.apart("launching", broadcast=due):
                try:
                    with transaction.atomic():
                        launched += _launch_due(due[0])
                except ActionRefused as refusal:
                    _back_to_draft(due[0], refusal.reason)
                except OperationalError:
                    raise
                except Exception:
                    log.exception("launch failed", broadcast=due[0])
                    _back_to_draft(
                        due[0], "our own program failed at it; those who run Turnout find why in the log."
                    )
    return launched


def obstacles(broadcast: Broadcast, steps: Sequence[BroadcastStep]) -> list[str]:
    """Say everything that stands in the way of sending this broadcast now, whoever is in its audience."""
    sender, token, lane = broadcast.sender, broadcast.sender.provider_token, broadcast.sender.lane
    found = []
    if broadcast.tenant.state != Tenant.State.ACTIVE:
        found.append("The tenant is suspended.")
    if broadcast.campaign.state in (Campaign.State.PAUSED, Campaign.State.COMPLETED):
        found.append(f"Campaign “{broadcast.campaign}” is {broadcast.campaign.state}.")
    if sender.kind != Sender.Kind.WHATSAPP:
        found.append(f"Broadcasts go out by WhatsApp; sender {sender} is of kind {sender.kind}.")
    if not token.usable:
        state = token.state if token.state not in ("active", "throttled") else "expired"
        found.append(f"Token “{token.label}” is {state}: replace or check it first.")
    if lane.paused_at:
        found.append(f"Sender {sender} is held ({lane.pause_reason or 'operator'}): resume it first.")
    found.extend(
        f"Template “{step.template.name}” ({step.template.language}) is {step.template.state}."
        for step in steps
        if step.template.state != MessageTemplate.State.APPROVED
    )
    return found


def _launch_due(broadcast_id: int) -> int:
    broadcast = locked_broadcast(broadcast_id)
    if broadcast.state != Broadcast.State.SCHEDULED:  # somebody else was faster, or it was cancelled
        return 0
    steps = _steps(broadcast)
    if errors := obstacles(broadcast, steps):
        raise ActionRefused(" ".join(errors))
    _freeze(broadcast, steps)
    return 1


def _back_to_draft(broadcast_id: int, why: str) -> None:
    broadcast = locked_broadcast(broadcast_id)
    if broadcast.state != Broadcast.State.SCHEDULED:
        return
    log.warning("broadcast not launched", broadcast=broadcast_id, reason=why)
    broadcast.state = Broadcast.State.DRAFT
    broadcast.pause_detail = f"Not launched when it was due: {why}"
    broadcast.save(update_fields=["state", "pause_detail"])
    open_incident(
        tenant_id=broadcast.tenant_id,
        kind="broadcast_not_launched",
        scope=f"broadcast:{broadcast_id}",
        summary=f"“{broadcast.name}” was not launched when it was due: {why}"[:300],
    )


def _steps(broadcast: Broadcast) -> list[BroadcastStep]:
    return list(broadcast.steps.select_related("template").order_by("position"))


def frozen_of(template: MessageTemplate) -> dict[str, Any]:
    """Write down what `BroadcastStep.frozen` keeps of a template."""
    return {
        "name": template.name,
        "language": template.language,
        "category": template.category,
        "components": template.components,
    }


def _freeze(broadcast: Broadcast, steps: Sequence[BroadcastStep]) -> Launched:
    """Write one message per sendable contact, and count the others by reason, in one statement."""
    ranked, ranked_params = audience.ranked_sql(broadcast, steps)
    placed, placed_params = audience.placed_sql(broadcast, steps)
    filled, filled_params = audience.parameters_sql(steps)
    sql = f"""
        WITH {ranked}, {placed}, written AS (
            INSERT INTO messaging_message (
                tenant_id, lane_id, broadcast_id, step_id, contact_id, phone, parameters, state,
                due_at, created_at, attempts, error_code, error_detail, wamid, vendor_status)
            SELECT %s, %s, %s, p.step_id, p.id, p.phone, {filled}, 'queued', now(), now(), 0, '', '', '', ''
              FROM placed p JOIN campaigns_contact c ON c.id = p.id
             ORDER BY p.step_id, p.id
        )
        SELECT reason, count(*) FROM ranked GROUP BY reason"""
    with audience.planned_for_many() as cursor:
        cursor.execute(
            sql,
            [
                *ranked_params,
                *placed_params,
                broadcast.tenant_id,
                broadcast.sender.lane_id,
                broadcast.pk,
                *filled_params,
            ],
        )
        excluded: dict[str | None, int] = dict(cursor.fetchall())
    total = excluded.pop(None, 0)
    if not total:
        raise ActionRefused("Nobody in the audience can be sent to.")
    for step in steps:
        step.frozen = frozen_of(step.template)
    BroadcastStep.objects.bulk_update(steps, ["frozen"])
    broadcast.state = Broadcast.State.RUNNING
    broadcast.pause_detail = ""
    broadcast.total = total
    broadcast.excluded = {reason: excluded[reason] for reason in audience.REASONS if reason in excluded}
    broadcast.launched_at = now()
    broadcast.save(update_fields=["state", "pause_detail", "total", "excluded", "launched_at"])
    settle_steps(broadcast)
    enqueue(QUEUE)
    log.info("broadcast launched", broadcast=broadcast.pk, total=total)
    return Launched(broadcast.state, total, broadcast.excluded)


def _warnings(broadcast: Broadcast, steps: Sequence[BroadcastStep], preflight: Preflight) -> list[str]:
    warnings = []
    if preflight.us_marketing:
        warnings.append(
            f"{preflight.us_marketing} numbers begin with +1: Meta does not deliver marketing templates to "
            "the United States (131049)."
        )
    if broadcast.sender.provider_token.state == "throttled":
        warnings.append("The token is throttled: sending begins when the vendor allows it again.")
    others = (
        Broadcast.objects.filter(sender_id=broadcast.sender_id, state=Broadcast.State.RUNNING)
        .exclude(pk=broadcast.pk)
        .count()
    )
    if others:
        warnings.append(f"{others} other broadcasts share this sender's rate now.")
    warnings.extend(
        f"Template “{step.template.name}” is rated {step.template.quality}: Meta pauses it when it is red."
        for step in steps
        if step.template.quality.upper() in ("YELLOW", "RED")
    )
    return warnings
