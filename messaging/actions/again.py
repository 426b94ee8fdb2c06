"""Queue messages again: what failed for a reason that may have passed, and what was in doubt too long.

Rows are locked as everybody locks them: messages by id first, then their broadcast. What is refused under the
broadcast's lock is rolled back with its messages.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import structlog
from django.contrib.postgres.fields import ArrayField
from django.db import connection, models, transaction
from django.db.models import Case, F, Func, Q, When
from django.utils.timezone import now

from engine.clock.schedules import enqueue
from messaging.actions.apart import Pieces
from messaging.actions.broadcasts import locked_broadcast
from messaging.actions.failures import begin_windows
from messaging.actions.flow import settle_steps
from messaging.actions.launch import obstacles
from messaging.actions.senders import QUEUE
from messaging.models import Broadcast, BroadcastStep, Message
from messaging.querysets import MessageQuerySet
from messaging.rules import NOT_SENT, RETRYABLE_CODES
from tenants.errors import ActionRefused

log = structlog.stdlib.get_logger("turnout.broadcasts")

State, StepState = Broadcast.State, BroadcastStep.State
LONGEST_MINUTES: Final = 30 * 24 * 60
MOST_ATTEMPTS: Final = 3
"""A message that has been tried so often is not sent again by itself: somebody should look first."""

# A late copy of what the vendor said of an attempt that it failed must not settle the retry.
DISMISSED: Final = Case(
    When(Q(attempt=None) | Q(error_code=NOT_SENT), then=F("dismissed")),
    default=Func(F("dismissed"), F("attempt"), function="array_append"),
    output_field=ArrayField(models.UUIDField()),
)


@transaction.atomic
def retry_failed(*, broadcast_id: int) -> int:
    """Queue again what failed for a reason that may have passed; returns how many. Never what is in doubt.

    The old attempt is forgotten, so that a late copy of its failure does not count against the new one.
    """
    steps = BroadcastStep.objects.filter(broadcast_id=broadcast_id).values_list("pk", flat=True)
    failed = Message.objects.filter(
        step_id__in=list(steps), state=Message.State.FAILED, error_code__in=RETRYABLE_CODES
    )
    return _queue_again(broadcast_id, "tried again", failed, attempts=0, dismissed=DISMISSED)


@transaction.atomic
def resend_in_doubt(*, broadcast_id: int, older_than_minutes: int) -> int:
    """Queue again what has been in doubt for so long; returns how many.

    Somebody takes the risk that some of them arrived and arrive twice. Until a message leaves again, a status
    of its old attempt settles it and cancels the resend.
    """
    if not 1 <= older_than_minutes <= LONGEST_MINUTES:
        raise ActionRefused(
            f"Say how long they have been in doubt: 1 to {LONGEST_MINUTES:,} minutes.",
            field="older_than_minutes",
        )
    doubtful = doubtful_of(broadcast_id, older_than_minutes)
    return _queue_again(broadcast_id, "sent again", doubtful, attempts=0)


def doubtful_of(broadcast_id: int, older_than_minutes: int) -> MessageQuerySet:
    """The messages of a broadcast that have been in doubt for so long, found by the index of what is."""
    tenants = Broadcast.objects.filter(pk=broadcast_id).values_list("tenant_id", flat=True)
    rows: MessageQuerySet = Message.objects.in_doubt().filter(
        tenant_id__in=list(tenants),
        broadcast_id=broadcast_id,
        in_doubt_at__lte=now() - timedelta(minutes=older_than_minutes),
    )
    return rows


def resend_by_themselves(pieces: Pieces) -> int:
    """Queue again what has been in doubt for longer than its sender allows; returns how many.

    For senders that say so only (`Sender.in_doubt_minutes`), at most twice a message, and never for a
    broadcast that could not go on.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT DISTINCT b.id, b.tenant_id, b.name, s.in_doubt_minutes
              FROM messaging_sender AS s
              JOIN messaging_message AS m
                ON m.tenant_id = s.tenant_id AND m.state = 'in_doubt' AND m.lane_id = s.lane_id
               AND m.in_doubt_at <= now() - s.in_doubt_minutes * interval '1 minute' AND m.attempts < %s
              JOIN messaging_broadcast AS b
                ON b.id = m.broadcast_id AND b.state IN ('running', 'paused', 'completed')
             WHERE s.in_doubt_minutes IS NOT NULL
             ORDER BY b.id
            """,
            [MOST_ATTEMPTS],
        )
        found = cursor.fetchall()
    resent = 0
    for broadcast_id, tenant_id, name, minutes in found:
        with pieces.apart("sending again", broadcast=(broadcast_id, tenant_id, name)):
            doubtful = doubtful_of(broadcast_id, minutes).filter(attempts__lt=MOST_ATTEMPTS)
            try:
                resent += _queue_again(broadcast_id, "sent again", doubtful)
            except ActionRefused as refusal:
                log.info("in doubt and not sent again", broadcast=broadcast_id, reason=refusal.reason)
    return resent


def _queue_again(broadcast_id: int, done: str, rows: MessageQuerySet, **changes: Any) -> int:
    """Queue these rows of a broadcast again, and let it go on if it was completed."""
    with transaction.atomic():
        queued = rows.locked_by_id().update(
            state=Message.State.QUEUED,
            due_at=now(),
            attempt=None,
            run=None,
            in_doubt_at=None,
            wamid="",
            vendor_status="",
            error_code="",
            error_detail="",
            accepted_at=None,
            sent_at=None,
            failed_at=None,
            **changes,
        )
        broadcast = locked_broadcast(broadcast_id)
        must_be(broadcast, done, State.RUNNING, State.PAUSED, State.COMPLETED)
        if broadcast.state == State.COMPLETED:
            steps = list(broadcast.steps.select_related("template"))
            if errors := obstacles(broadcast, steps):
                raise ActionRefused(" ".join(errors))
        if not queued:
            return 0
        broadcast.steps.filter(state=StepState.DONE).update(state=StepState.WAITING)
        begin_windows(list(broadcast.steps.all()))
        if broadcast.state == State.COMPLETED:
            broadcast.state, broadcast.ended_at = State.RUNNING, None
            broadcast.save(update_fields=["state", "ended_at"])
        if broadcast.state == State.RUNNING:
            settle_steps(broadcast)
            enqueue(QUEUE)
    log.info("messages queued again", broadcast=broadcast_id, messages=queued, why=done)
    return queued


def must_be(broadcast: Broadcast, done: str, *states: str) -> None:
    """Refuse what cannot be done to a broadcast in its state."""
    if broadcast.state not in states:
        state = broadcast.state
        if state == State.PAUSED:
            state = f"{state} ({broadcast.pause_reason})"
        raise ActionRefused(f"“{broadcast.name}” is {state}: it cannot be {done}.")
