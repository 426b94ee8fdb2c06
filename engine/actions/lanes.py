"""What an operator does to lanes, and what the minute's watch does for those that nobody drains."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from django.db import transaction
from django.db.models import Case, Value, When
from django.utils import timezone

from engine.clock.schedules import enqueue
from engine.models import FlowHold, Incident, Lane, Receipt
from engine.processor.registry import all_processors
from engine.store.holds import release_flows
from engine.store.recovery import find_strays, free_dead
from engine.watch.guard import guarded
from engine.watch.runs import close_lost_runs
from tenants.errors import ActionRefused


@transaction.atomic
def pause_lane(*, lane_id: int, reason: str = "operator") -> int:
    """Let nothing more leave by this lane. Takes effect within a quarter of a lease."""
    return Lane.objects.filter(pk=lane_id, paused_at=None).update(
        paused_at=timezone.now(), pause_reason=reason
    )


@transaction.atomic
def resume_lane(*, lane_id: int) -> int:
    """Open a lane again and start on what waits; refused while its token cannot be used."""
    lane = Lane.objects.select_for_update(of=("self",)).select_related("token").get(pk=lane_id)
    if not lane.token.usable:
        raise ActionRefused(
            f"the token “{lane.token.label}” is {lane.token.state}: "
            "give it a new secret and check it, then resume"
        )
    if lane.paused_at is None and lane.breaker == Lane.Breaker.CLOSED:
        return 0
    Lane.objects.filter(pk=lane_id).update(
        paused_at=None, pause_reason="", breaker=Lane.Breaker.CLOSED, open_until=None, last_error=""
    )
    Incident.objects.filter(scope=f"lane:{lane_id}", ended_at=None).update(ended_at=timezone.now())
    enqueue(lane.queue)
    return 1


@transaction.atomic
def release_flow(*, hold_id: int) -> int:
    """Let a held flow go on, and start on what waits; returns 0 when somebody was faster."""
    hold = FlowHold.objects.select_for_update().filter(pk=hold_id).first()
    if hold is None:
        return 0
    release_flows(processor=hold.processor, flows=[hold.flow])
    for processor in all_processors():
        if processor.name == hold.processor:
            enqueue(processor.queue)
    return 1


@transaction.atomic
def retry_receipts(*, receipt_ids: Collection[int]) -> int:
    """Apply webhooks again that were given up on or wait for their next attempt; returns how many."""
    retried = Receipt.objects.filter(pk__in=receipt_ids, applied_at=None).update(
        attempts=0, due_at=timezone.now()
    )
    if retried:
        enqueue("events")
    return retried


def recover_lanes() -> tuple[int, int]:
    """See to what nobody holds any more: lanes, rows, runs, breakers. Returns rows (given back, in doubt).

    Each processor has a transaction of its own, so that one that raises keeps none of the others waiting.
    """
    given_back = in_doubt = 0
    for processor in all_processors():
        for see_to in (free_dead, find_strays):
            counts = guarded(f"recover:{processor.name}", partial(see_to, processor))
            if counts:
                given_back, in_doubt = given_back + counts[0], in_doubt + counts[1]
    guarded("breakers", half_open_breakers)
    guarded("lost runs", close_lost_runs)
    return given_back, in_doubt


def half_open_breakers() -> int:
    """Let a lane try one call whose breaker has rested long enough; returns how many lanes.

    One that rested because the vendor asked for it, and not for what it did, is closed again. Only lanes
    that nobody holds: a runner sees to its own.
    """
    return Lane.objects.filter(
        breaker=Lane.Breaker.OPEN, open_until__lte=timezone.now(), holder__isnull=True
    ).update(
        breaker=Case(
            When(openings__gt=0, then=Value(Lane.Breaker.HALF_OPEN)), default=Value(Lane.Breaker.CLOSED)
        )
    )
