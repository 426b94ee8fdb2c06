"""What the minute's tick does for broadcasts: nothing waits for it but what nobody else has done."""

from __future__ import annotations

from datetime import timedelta

from django.db import connection, transaction
from django.utils.timezone import now

from campaigns.models import Campaign
from messaging.actions.control import CANCEL_AT_ONCE, cancel_broadcast, cancel_queued
from messaging.actions.failures import refuse_after_failures
from messaging.actions.flow import advance_broadcast, hold_broadcasts
from messaging.actions.launch import launch_due_broadcasts
from messaging.models import Broadcast, BroadcastStep, MessageTemplate
from tenants.scope import all_tenants

LEFTOVERS_FOR = timedelta(days=1)


def tend_broadcasts() -> dict[str, int]:
    """Launch what is due, judge failures, advance what stands still, clear up, fold tallies."""
    with all_tenants():
        launched = launch_due_broadcasts()
        stopped = hold_unusable_steps() + refuse_after_failures()
        running = list(Broadcast.objects.filter(state=Broadcast.State.RUNNING).values_list("pk", flat=True))
        for broadcast_id in running:
            advance_broadcast(broadcast_id)
        return {
            "launched": launched,
            "stopped": stopped,
            "running": len(running),
            "ended": end_with_campaigns(),
            "cancelled": cancel_leftovers(),
            "folded": compact_tallies(),
        }


def hold_unusable_steps() -> int:
    """Pause running steps whose template is no longer approved: nothing of them is claimed as it is."""
    steps = BroadcastStep.objects.filter(
        state=BroadcastStep.State.RUNNING, broadcast__state=Broadcast.State.RUNNING
    ).exclude(template__state=MessageTemplate.State.APPROVED)
    for step in steps.select_related("template").order_by("pk"):
        detail = f"Template “{step.template.name}” is {step.template.state}"
        hold_broadcasts(step_id=step.pk, reason=Broadcast.PauseReason.TEMPLATE, detail=detail)
    return len(steps)


def end_with_campaigns() -> int:
    """Cancel what was under way when its campaign was completed: it can never go on."""
    left = Broadcast.objects.filter(
        campaign__state=Campaign.State.COMPLETED, state__in=[Broadcast.State.RUNNING, Broadcast.State.PAUSED]
    )
    ids = list(left.order_by("pk").values_list("pk", flat=True))
    for broadcast_id in ids:
        cancel_broadcast(broadcast_id=broadcast_id, detail="Cancelled: its campaign was completed.")
    return len(ids)


def cancel_leftovers() -> int:
    """Cancel what is still queued of broadcasts cancelled today: the tail of a big one, the late ones."""
    ended = Broadcast.objects.filter(state=Broadcast.State.CANCELLED, ended_at__gte=now() - LEFTOVERS_FOR)
    cancelled = 0
    for broadcast_id in list(ended.values_list("pk", flat=True)):
        while True:
            with transaction.atomic():
                done = cancel_queued(broadcast_id=broadcast_id, at_most=CANCEL_AT_ONCE)
            cancelled += done
            if done < CANCEL_AT_ONCE:
                break
    return cancelled


def compact_tallies() -> int:
    """Fold the tallies of each step and state into one row; returns how many rows went away.

    The newest minute is left as it is: it tells the rate. One statement, so a sum taken meanwhile is right
    before and after, and of two compactors the second finds the rows gone.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH many AS (
                SELECT step_id, state FROM messaging_messagetally
                 WHERE at < now() - interval '1 minute'
                 GROUP BY step_id, state HAVING count(*) > 1
            ), gone AS (
                DELETE FROM messaging_messagetally t USING many
                 WHERE t.step_id = many.step_id AND t.state = many.state
                   AND t.at < now() - interval '1 minute'
                RETURNING t.*
            ), folded AS (
                INSERT INTO messaging_messagetally (tenant_id, broadcast_id, step_id, state, n, at)
                SELECT tenant_id, broadcast_id, step_id, state, sum(n), max(at)
                  FROM gone GROUP BY 1, 2, 3, 4 HAVING sum(n) <> 0
                RETURNING 1
            )
            SELECT (SELECT count(*) FROM gone) - (SELECT count(*) FROM folded)
            """
        )
        return int(cursor.fetchone()[0])
