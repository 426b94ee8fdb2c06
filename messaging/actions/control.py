"""What an operator does with a broadcast that is on its way."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from django.db import connection, transaction
from django.utils.timezone import now

from engine.actions import resume_lane
from engine.clock.schedules import enqueue
from engine.models import Lane
from messaging.actions.again import must_be
from messaging.actions.broadcasts import locked_broadcast
from messaging.actions.failures import begin_windows
from messaging.actions.flow import end_incidents, settle_steps
from messaging.actions.launch import obstacles
from messaging.actions.senders import QUEUE
from messaging.models import Broadcast, BroadcastStep, Message, MessageTemplate
from messaging.rules import NOT_SENT
from tenants.errors import ActionRefused

State, StepState = Broadcast.State, BroadcastStep.State
CANCEL_AT_ONCE = 20_000
"""Messages that `cancel_broadcast` marks itself; `cancel_leftovers` does the rest, a chunk a transaction."""


@transaction.atomic
def pause_broadcast(
    *, broadcast_id: int, reason: str = Broadcast.PauseReason.OPERATOR, detail: str = ""
) -> Broadcast:
    """Stop sending within about a second. Messages already on their way finish."""
    broadcast = locked_broadcast(broadcast_id)
    must_be(broadcast, "paused", State.RUNNING)
    broadcast.state, broadcast.pause_reason, broadcast.pause_detail = State.PAUSED, reason, detail
    broadcast.save(update_fields=["state", "pause_reason", "pause_detail"])
    return broadcast


@transaction.atomic
def resume_broadcast(*, broadcast_id: int) -> Broadcast:
    """Go on sending, unless what stopped it is still there: then refused, saying what.

    A lane that is held for the same reason is resumed with it: the operator has said that it may go on.
    Steps whose template is approved again wait for their turn.
    """
    # lanes before broadcasts, as whoever stops them does
    lanes = Lane.objects.filter(sender__broadcasts=broadcast_id)
    list(lanes.select_for_update(no_key=True, of=("self",)).values_list("pk"))
    broadcast = locked_broadcast(broadcast_id)
    must_be(broadcast, "resumed", State.PAUSED)
    lane = broadcast.sender.lane
    resumes_lane = lane.paused_at is not None and lane.pause_reason == broadcast.pause_reason
    if resumes_lane:
        lane.paused_at = None  # in our copy: judged as it will be
    steps = list(broadcast.steps.select_related("template").exclude(state=StepState.DONE))
    ready = [step for step in steps if step.template.state == MessageTemplate.State.APPROVED]
    # one step whose template is paused does not hold the others
    if errors := obstacles(broadcast, ready or steps):
        raise ActionRefused(" ".join(errors))
    if resumes_lane:
        resume_lane(lane_id=lane.pk)
    broadcast.steps.filter(pk__in=[step.pk for step in ready], state=StepState.PAUSED).update(
        state=StepState.WAITING, pause_detail=""
    )
    begin_windows(steps)  # what failed before was the reason for the pause
    broadcast.state, broadcast.pause_reason, broadcast.pause_detail = State.RUNNING, "", ""
    broadcast.save(update_fields=["state", "pause_reason", "pause_detail"])
    end_incidents(broadcast)
    settle_steps(broadcast)
    enqueue(QUEUE)
    return broadcast


@transaction.atomic
def cancel_broadcast(*, broadcast_id: int, detail: str = "") -> int:
    """End it for good; returns how many queued messages were cancelled here. Those in flight finish.

    `detail` says why, where no person has done it. From this commit on nothing of it is claimed. Of a big one
    `cancel_leftovers` marks the rest within minutes, so that nobody waits for a million rows.
    """
    broadcast = locked_broadcast(broadcast_id)
    must_be(broadcast, "cancelled", State.DRAFT, State.SCHEDULED, State.RUNNING, State.PAUSED)
    broadcast.state, broadcast.pause_reason, broadcast.pause_detail = State.CANCELLED, "", detail
    broadcast.ended_at = now()
    broadcast.save(update_fields=["state", "pause_reason", "pause_detail", "ended_at"])
    end_incidents(broadcast)
    return cancel_queued(broadcast_id=broadcast_id, at_most=CANCEL_AT_ONCE)


def cancel_queued(*, broadcast_id: int, at_most: int) -> int:
    """Cancel queued messages of a cancelled broadcast; rows that a runner holds just now are left alone.

    Rows in somebody's hands are skipped and never waited for, so their order cannot meet another's.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE messaging_message SET state = 'cancelled', run = NULL
             WHERE id = ANY(ARRAY(
                SELECT m.id
                  FROM messaging_broadcast b
                  JOIN messaging_sender s ON s.id = b.sender_id
                  JOIN messaging_broadcaststep t ON t.broadcast_id = b.id
                 CROSS JOIN LATERAL (
                    SELECT id FROM messaging_message
                     WHERE lane_id = s.lane_id AND step_id = t.id AND state = 'queued'
                     ORDER BY due_at, id LIMIT %s FOR NO KEY UPDATE SKIP LOCKED) m
                 WHERE b.id = %s AND b.state = 'cancelled'
                 LIMIT %s))
            """,
            [at_most, broadcast_id, at_most],
        )
        return int(cursor.rowcount)


@transaction.atomic
def resolve_in_doubt(*, message_ids: Collection[int], outcome: Literal["sent", "failed"]) -> int:
    """Settle messages in doubt by an operator's word; returns how many still were. Sends nothing.

    Declared failed, one may be queued again with `retry_failed`. A webhook that comes later is stronger
    than either word.
    """
    doubtful = Message.objects.in_doubt().filter(pk__in=message_ids).locked_by_id()
    if outcome == "sent":
        return int(
            doubtful.update(
                state=Message.State.ACCEPTED,
                accepted_at=now(),
                error_code="",
                error_detail="Declared sent by an operator.",
            )
        )
    return int(
        doubtful.update(
            state=Message.State.FAILED,
            failed_at=now(),
            error_code=NOT_SENT,
            error_detail="Declared unsent by an operator.",
        )
    )
