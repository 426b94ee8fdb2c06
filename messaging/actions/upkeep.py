"""What the minute's tick does for broadcasts: nothing waits for it but what nobody else has done."""

from __future__ import annotations

from typing import Final

from django.db import connection

from campaigns.models import Campaign
from engine.watch.checks import reconcile
from messaging.actions.again import resend_by_themselves
from messaging.actions.apart import Pieces
from messaging.actions.control import CANCEL_AT_ONCE, cancel_broadcast, cancel_queued
from messaging.actions.failures import judge_step, running_steps
from messaging.actions.flow import advance_broadcast, hold_broadcasts, reopen_broadcast
from messaging.actions.launch import launch_due_broadcasts
from messaging.models import Broadcast, BroadcastStep, MessageTemplate
from messaging.watch import end_past_incidents
from tenants.scope import all_tenants

State, StepState = Broadcast.State, BroadcastStep.State
UPKEEP_KIND: Final = "broadcast_upkeep"
Named = tuple[int, int, str]
"""A broadcast: its id, its tenant's, its name."""


def tend_broadcasts() -> dict[str, int]:
    """Launch what is due, judge failures, advance what stands still, clear up, fold tallies.

    Each kind of work and each broadcast in it stands alone: what fails is logged, is an incident on that
    broadcast for as long as it fails, and is tried again in the next minute.
    """
    pieces = Pieces()
    with all_tenants():
        counts = {
            "launched": pieces.counted("launching", lambda p: launch_due_broadcasts(p)),
            "stopped": pieces.counted("holding", lambda p: hold_unusable_steps(p))
            + pieces.counted("judging", lambda p: stop_failing_steps(p)),
            "ended": pieces.counted("ending", lambda p: end_with_campaigns(p)),
            "cancelled": pieces.counted("cancelling", lambda p: cancel_leftovers(p)),
            "reopened": pieces.counted("reopening", lambda p: reopen_left_behind(p)),
            "resent": pieces.counted("sending again", lambda p: resend_by_themselves(p)),
            "running": pieces.counted("advancing", lambda p: advance_running(p)),
            "over": pieces.counted("ending incidents", lambda p: end_past_incidents()),
            "folded": pieces.counted("folding", lambda p: compact_tallies()),
        }
        reconcile(UPKEEP_KIND, pieces.failed)
    return counts


def hold_unusable_steps(pieces: Pieces) -> int:
    """Pause running steps whose template is no longer approved: nothing of them is claimed as it is."""
    steps = BroadcastStep.objects.filter(state=StepState.RUNNING, broadcast__state=State.RUNNING).exclude(
        template__state=MessageTemplate.State.APPROVED
    )
    for step in steps.select_related("template", "broadcast").order_by("pk"):
        with pieces.apart("holding", broadcast=_named(step.broadcast)):
            detail = f"Template “{step.template.name}” is {step.template.state}"
            hold_broadcasts(step_id=step.pk, reason=Broadcast.PauseReason.TEMPLATE, detail=detail)
    return len(steps)


def stop_failing_steps(pieces: Pieces) -> int:
    """Hold every running step that fails too often, as `refuse_after_failures` does for some."""
    stopped = 0
    for step, passed, failed in running_steps():
        with pieces.apart("judging", broadcast=_named(step.broadcast)):
            stopped += judge_step(step, passed, failed)
    return stopped


def advance_running(pieces: Pieces) -> int:
    """Advance what nobody else has; returns how many broadcasts run."""
    running = list(Broadcast.objects.filter(state=State.RUNNING).values_list("pk", "tenant_id", "name"))
    for broadcast in running:
        with pieces.apart("advancing", broadcast=broadcast):
            advance_broadcast(broadcast[0])
    return len(running)


def end_with_campaigns(pieces: Pieces) -> int:
    """Cancel what was under way when its campaign was completed: it can never go on."""
    under_way = Broadcast.objects.filter(
        campaign__state=Campaign.State.COMPLETED, state__in=[State.RUNNING, State.PAUSED]
    )
    ended = 0
    for broadcast in list(under_way.order_by("pk").values_list("pk", "tenant_id", "name")):
        with pieces.apart("ending", broadcast=broadcast):
            cancel_broadcast(broadcast_id=broadcast[0], detail="Cancelled: its campaign was completed.")
            ended += 1
    return ended


def left_behind() -> list[tuple[int, int, str, str]]:
    """List broadcasts (id, tenant id, name, state) with queued messages that nobody would send any more.

    Their step or the whole broadcast was called done, or it was cancelled, while a runner that stood still
    had them in hand. A skip scan of the index of what is queued: one probe for each lane and step, whatever
    the history.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH RECURSIVE found AS (
                (SELECT lane_id, step_id FROM messaging_message
                  WHERE state = 'queued' ORDER BY lane_id, step_id LIMIT 1)
                UNION ALL
                SELECT next.* FROM found CROSS JOIN LATERAL (
                    SELECT lane_id, step_id FROM messaging_message
                     WHERE state = 'queued' AND (lane_id, step_id) > (found.lane_id, found.step_id)
                     ORDER BY lane_id, step_id LIMIT 1) AS next
            )
            SELECT DISTINCT b.id, b.tenant_id, b.name, b.state
              FROM found
              JOIN messaging_broadcaststep AS s ON s.id = found.step_id
              JOIN messaging_broadcast AS b ON b.id = s.broadcast_id
             WHERE b.state IN ('completed', 'cancelled')
                OR (s.state = 'done' AND b.state IN ('running', 'paused'))
             ORDER BY b.id
            """
        )
        return [(row[0], row[1], row[2], row[3]) for row in cursor.fetchall()]


def reopen_left_behind(pieces: Pieces) -> int:
    """Let broadcasts go on that have queued messages although they or the step were called done."""
    reopened = 0
    for broadcast_id, tenant_id, name, state in left_behind():
        if state != State.CANCELLED:
            with pieces.apart("reopening", broadcast=(broadcast_id, tenant_id, name)):
                reopened += reopen_broadcast(broadcast_id=broadcast_id)
    return reopened


def cancel_leftovers(pieces: Pieces | None = None) -> int:
    """Cancel what is still queued of cancelled broadcasts: the tail of a big one, the late ones."""
    pieces, cancelled = pieces or Pieces(), 0
    for broadcast_id, tenant_id, name, state in left_behind():
        if state != State.CANCELLED:
            continue
        done = CANCEL_AT_ONCE
        while done >= CANCEL_AT_ONCE:
            done = 0
            with pieces.apart("cancelling", broadcast=(broadcast_id, tenant_id, name)):
                done = cancel_queued(broadcast_id=broadcast_id, at_most=CANCEL_AT_ONCE)
            cancelled += done
    return cancelled


def _named(broadcast: Broadcast) -> Named:
    return broadcast.pk, broadcast.tenant_id, broadcast.name


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
