"""Write a broadcast down: its sender, its steps with their shares, and its audience."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import transaction

from campaigns.models import Campaign, Contact, Segment
from messaging.models import Broadcast, BroadcastStep, MessageTemplate, Sender
from messaging.schemas import audience_of
from tenants.errors import ActionRefused

BROADCAST_FIELDS = frozenset({"name", "campaign_id", "sender_id", "audience", "scheduled_at"})


@transaction.atomic
def create_broadcast(
    *,
    tenant_id: int,
    campaign_id: int,
    sender_id: int,
    name: str,
    steps: Sequence[Mapping[str, int]],
    audience: Mapping[str, Any],
    scheduled_at: datetime | None = None,
) -> Broadcast:
    """Write a draft. `steps` are `{"template": id, "share": percent}` in the order they go out."""
    _check_parents(tenant_id, campaign_id, sender_id)
    _check_audience(tenant_id, audience)
    _check_steps(tenant_id, steps)
    broadcast: Broadcast = Broadcast.objects.create(
        tenant_id=tenant_id,
        campaign_id=campaign_id,
        sender_id=sender_id,
        name=name,
        audience=dict(audience),
        scheduled_at=scheduled_at,
    )
    _write_steps(broadcast, steps)
    return broadcast


@transaction.atomic
def update_broadcast(
    *, broadcast_id: int, steps: Sequence[Mapping[str, int]] | None = None, **changes: Any
) -> Broadcast:
    """Change a draft. Refused once it is scheduled or launched: its audience may be frozen."""
    if unknown := changes.keys() - BROADCAST_FIELDS:
        raise ActionRefused(f"{', '.join(sorted(unknown))} cannot be changed.", field=min(unknown))
    broadcast = locked_broadcast(broadcast_id)
    _must_be_draft(broadcast, "changed")
    for field, value in changes.items():
        setattr(broadcast, field, value)
    _check_parents(broadcast.tenant_id, broadcast.campaign_id, broadcast.sender_id)
    _check_audience(broadcast.tenant_id, broadcast.audience)
    if steps is not None:
        _check_steps(broadcast.tenant_id, steps)
        broadcast.steps.all().delete()
        _write_steps(broadcast, steps)
    if changes:
        broadcast.save(update_fields=list(changes))
    return broadcast


@transaction.atomic
def delete_broadcast(*, broadcast_id: int) -> None:
    """Delete a draft. What was sent stays on record: cancel it instead."""
    broadcast = locked_broadcast(broadcast_id)
    _must_be_draft(broadcast, "deleted")
    broadcast.delete()


def locked_broadcast(broadcast_id: int) -> Broadcast:
    """Fetch a broadcast and keep everybody else from changing its state until the commit.

    `no_key` lets messages that point at it be written and settled meanwhile.
    """
    broadcast: Broadcast | None = (
        Broadcast.objects.select_for_update(no_key=True, of=("self",))
        .select_related("tenant", "campaign", "sender__lane", "sender__provider_token")
        .filter(pk=broadcast_id)
        .first()
    )
    if broadcast is None:
        raise ActionRefused(f"There is no broadcast {broadcast_id}.")
    return broadcast


def _must_be_draft(broadcast: Broadcast, done: str) -> None:
    if broadcast.state != Broadcast.State.DRAFT:
        raise ActionRefused(f"“{broadcast.name}” is {broadcast.state}: only a draft can be {done}.")


def _check_parents(tenant_id: int, campaign_id: int, sender_id: int) -> None:
    if not Campaign.objects.filter(pk=campaign_id, tenant_id=tenant_id).exists():
        raise ActionRefused(f"There is no campaign {campaign_id}.", field="campaign")
    if not Sender.objects.filter(pk=sender_id, tenant_id=tenant_id).exists():
        raise ActionRefused(f"There is no sender {sender_id}.", field="sender")


def _check_steps(tenant_id: int, steps: Sequence[Mapping[str, int]]) -> None:
    if not steps:
        raise ActionRefused("A broadcast needs a step.", field="steps")
    shares = [step["share"] for step in steps]
    if any(not 1 <= share <= 100 for share in shares) or sum(shares) != 100:
        raise ActionRefused(
            f"The steps' shares must be 1 to 100 and add up to 100; these make {sum(shares)}.", field="steps"
        )
    wanted = {step["template"] for step in steps}
    known = set(
        MessageTemplate.objects.filter(tenant_id=tenant_id, pk__in=wanted).values_list("pk", flat=True)
    )
    if missing := wanted - known:
        raise ActionRefused(f"There is no template {min(missing)}.", field="steps")


def _write_steps(broadcast: Broadcast, steps: Sequence[Mapping[str, int]]) -> None:
    BroadcastStep.objects.bulk_create(
        BroadcastStep(
            tenant_id=broadcast.tenant_id,
            broadcast=broadcast,
            position=position,
            template_id=step["template"],
            share=step["share"],
        )
        for position, step in enumerate(steps, 1)
    )


def _check_audience(tenant_id: int, audience: Mapping[str, Any]) -> None:
    chosen = audience_of(audience)
    if "segment" in chosen and not Segment.objects.filter(pk=chosen["segment"], tenant_id=tenant_id).exists():
        raise ActionRefused(f"There is no segment {chosen['segment']}.", field="audience")
    if "contacts" in chosen:
        _check_named(tenant_id, chosen["contacts"])


def _check_named(tenant_id: int, named: list[str]) -> None:
    known = set(
        Contact.objects.filter(tenant_id=tenant_id, external_id__in=named).values_list(
            "external_id", flat=True
        )
    )
    if missing := sorted(set(named) - known):
        shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        raise ActionRefused(f"{len(missing)} contacts are not known: {shown}", field="audience")
