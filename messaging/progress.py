"""How far a broadcast is: sums of tallies, so the cost does not grow with the number of messages."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from django.db import connection

from campaigns.models import Campaign
from engine.models import Lane
from messaging.models import Broadcast, BroadcastStep, Message
from tenants.models import Tenant

RATE_SECONDS: Final = 10
_HOLDERS: Final = ("broadcast__tenant", "broadcast__campaign", "broadcast__sender__lane")
_SHOWN: Final = (
    "queued",
    "sending",
    "accepted",
    "sent",
    "delivered",
    "read",
    "failed",
    "in_doubt",
    "suppressed",
    "cancelled",
)


def progress_of(broadcast: Broadcast) -> dict[str, Any]:
    """Build the `progress/` document of one broadcast."""
    return progress_of_many([broadcast])[broadcast.pk]


def progress_of_many(broadcasts: Sequence[Broadcast]) -> dict[int, dict[str, Any]]:
    """Build the documents of many broadcasts, by id, with two queries in all.

    Every message is counted once, under its state now (`sending` includes those claimed for it), so the
    counts add up to `total`. The rate is of messages that the vendor took in the last ten seconds.
    """
    tallies: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # by step and state
    recent: dict[int, int] = defaultdict(int)  # by broadcast
    ids = [broadcast.pk for broadcast in broadcasts]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT broadcast_id, step_id, state, sum(n),
                   coalesce(sum(n) FILTER (WHERE at > now() - make_interval(secs => %s)), 0)
              FROM messaging_messagetally WHERE broadcast_id = ANY(%s) GROUP BY 1, 2, 3
            """,
            [RATE_SECONDS, ids],
        )
        for broadcast_id, step_id, state, n, n_recent in cursor.fetchall():
            tallies[step_id][_shown_as(state)] += n
            if state in Message.ON_ITS_WAY:
                recent[broadcast_id] += n_recent
    steps: dict[int, list[BroadcastStep]] = defaultdict(list)
    found = BroadcastStep.objects.filter(broadcast_id__in=ids).select_related("template", *_HOLDERS)
    for step in found:
        steps[step.broadcast_id].append(step)
    return {
        broadcast.pk: _document(broadcast, steps[broadcast.pk], tallies, recent[broadcast.pk])
        for broadcast in broadcasts
    }


def held_by(broadcast: Broadcast) -> str:
    """Say what keeps a running broadcast from going out although nobody has paused it; "" for nothing."""
    if broadcast.state != Broadcast.State.RUNNING:
        return ""
    lane, campaign = broadcast.sender.lane, broadcast.campaign
    if broadcast.tenant.state != Tenant.State.ACTIVE:
        return "the tenant is suspended"
    if campaign.state in (Campaign.State.PAUSED, Campaign.State.COMPLETED):
        return f"its campaign is {campaign.state}"
    if lane.paused_at:
        return f"its sender is held ({lane.pause_reason or 'operator'})"
    if lane.breaker == Lane.Breaker.OPEN:
        return "its sender rests: the vendor refuses or does not answer"
    return ""


def _document(
    broadcast: Broadcast, steps: list[BroadcastStep], tallies: dict[int, dict[str, int]], recent: int
) -> dict[str, Any]:
    rows = [
        {
            "position": step.position,
            "template": step.template_id,
            "name": step.frozen.get("name") or step.template.name,
            "share": step.share,
            "state": step.state,
            "pause_detail": step.pause_detail,
            **_counts([tallies[step.pk]]),
        }
        for step in sorted(steps, key=lambda step: step.position)
    ]
    counts = _counts([tallies[step.pk] for step in steps])
    held = held_by(steps[0].broadcast) if steps and broadcast.state == Broadcast.State.RUNNING else ""
    rate = max(recent, 0) / RATE_SECONDS
    left = counts["queued"] + counts["sending"]
    return {
        "state": broadcast.state,
        "pause_reason": broadcast.pause_reason,
        "pause_detail": broadcast.pause_detail,
        "held_by": held,
        **counts,
        "rate_per_second": round(rate, 1),
        "eta_seconds": None if held and left else _eta(broadcast, left, rate),
        "excluded": broadcast.excluded,
        "steps": rows,
    }


def _eta(broadcast: Broadcast, left: int, rate: float) -> int | None:
    """Seconds until the last message leaves; None while nothing moves."""
    if broadcast.state == Broadcast.State.COMPLETED or (
        broadcast.state == Broadcast.State.RUNNING and not left
    ):
        return 0
    if broadcast.state != Broadcast.State.RUNNING or rate <= 0:
        return None
    return round(left / rate)


def _counts(tallies: list[dict[str, int]]) -> dict[str, int]:
    counts = {name: sum(tally.get(name, 0) for tally in tallies) for name in _SHOWN}
    return {"total": sum(counts.values()), **counts}


def _shown_as(state: str) -> str:
    return "sending" if state == Message.State.CLAIMED else state
