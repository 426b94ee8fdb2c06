"""How a running broadcast moves by itself: step after step, and to a halt when something is wrong."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import structlog
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, Subquery
from django.db.models.lookups import IsNull
from django.utils.timezone import now

from engine.actions import pause_lane
from engine.clock.schedules import enqueue
from engine.models import Lane
from engine.watch.incidents import end_incident, open_incident
from messaging.actions.broadcasts import locked_broadcast
from messaging.actions.senders import QUEUE
from messaging.models import Broadcast, BroadcastStep, Message, MessageTemplate
from messaging.rules import TEMPLATE_STATE_BY_CODE
from tenants.models import ProviderToken

log = structlog.stdlib.get_logger("turnout.broadcasts")

State, StepState, Reason = Broadcast.State, BroadcastStep.State, Broadcast.PauseReason
PAUSED_KIND, STEP_KIND = "broadcast_paused", "step_paused"


def advance_broadcast(broadcast_id: int) -> str:
    """Mark steps done that have nothing left to send, start the next, complete the last; returns the state.

    Called often: while a running step has an open message this is one query that takes no lock. Otherwise
    it is judged again under the broadcast's lock, so however many callers there are, a step starts once.
    """
    running = BroadcastStep.objects.filter(broadcast_id=OuterRef("pk"), state=StepState.RUNNING)
    found = (
        Broadcast.objects.filter(pk=broadcast_id)
        .annotate(sending=Exists(running.filter(_busy())))
        .values_list("state", "sending")
        .first()
    )
    if found is None:
        return ""
    state, sending = found
    if state != State.RUNNING or sending:
        return str(state)
    with transaction.atomic():
        broadcast = locked_broadcast(broadcast_id)
        if broadcast.state == State.RUNNING:
            settle_steps(broadcast)
        return str(broadcast.state)


def settle_steps(broadcast: Broadcast) -> None:
    """Bring the steps of a running broadcast, whose lock the caller holds, to where they belong."""
    steps = list(BroadcastStep.objects.filter(broadcast_id=broadcast.pk).order_by("position"))
    busy = set(BroadcastStep.objects.filter(_busy(), broadcast_id=broadcast.pk).values_list("pk", flat=True))
    for step in steps:
        if step.state == StepState.RUNNING and step.pk in busy:
            return
        # a paused step that had everything out already has nothing left to wait for
        if step.state in (StepState.RUNNING, StepState.PAUSED) and step.pk not in busy:
            _set_step(step, StepState.DONE)
    for step in steps:
        if step.state == StepState.WAITING:
            if step.pk in busy:
                _set_step(step, StepState.RUNNING)
                enqueue(QUEUE)
                return
            _set_step(step, StepState.DONE)
    held = [step for step in steps if step.state == StepState.PAUSED]
    if held:
        _pause(broadcast, Reason.TEMPLATE, held[0].pause_detail)
        return
    broadcast.state = State.COMPLETED
    broadcast.ended_at = now()
    broadcast.save(update_fields=["state", "ended_at"])


@transaction.atomic
def reopen_broadcast(*, broadcast_id: int) -> int:
    """Let steps called done, and their broadcast, go on for messages that are queued again; 1 if any were.

    A runner that stood still past its lease gives rows back after everybody thought that they had been sent.
    """
    broadcast = locked_broadcast(broadcast_id)
    if broadcast.state not in (State.RUNNING, State.PAUSED, State.COMPLETED):
        return 0
    done = BroadcastStep.objects.filter(_busy(), broadcast_id=broadcast.pk, state=StepState.DONE)
    steps = BroadcastStep.objects.filter(pk__in=list(done.values_list("pk", flat=True)))
    if not steps.update(state=StepState.WAITING):
        return 0
    log.warning("broadcast reopened", broadcast=broadcast.pk, was=broadcast.state)
    if broadcast.state == State.COMPLETED:
        broadcast.state, broadcast.ended_at = State.RUNNING, None
        broadcast.save(update_fields=["state", "ended_at"])
    if broadcast.state == State.RUNNING:
        settle_steps(broadcast)
    return 1


def hold_broadcasts(
    *,
    lane_ids: Collection[int] = (),
    token_id: int | None = None,
    step_id: int | None = None,
    reason: str,
    detail: str = "",
    code: str = "",
) -> int:
    """Stop what must not go on until somebody acts; returns how many broadcasts were paused.

    A step stops alone and the others go on; the last one left pauses its broadcast. Lanes stop with every
    running broadcast on them, a token with all its lanes; a token whose credentials failed is marked, so
    that nothing resumes before it has been checked.
    """
    paused = 0
    with transaction.atomic():
        if step_id is not None:
            paused += _hold_step(step_id, reason, detail, code)
        if token_id is not None:
            lane_ids = {
                *lane_ids,
                *Lane.objects.filter(token_id=token_id, queue=QUEUE).values_list("pk", flat=True),
            }
            if reason == Reason.TOKEN:
                ProviderToken.objects.filter(pk=token_id, state__in=["active", "throttled"]).update(
                    state=ProviderToken.State.FAILING, last_error=detail
                )
        if lane_ids:
            for lane_id in sorted(
                Lane.objects.filter(pk__in=lane_ids, paused_at=None).values_list("pk", flat=True)
            ):
                pause_lane(lane_id=lane_id, reason=reason)
            running = Broadcast.objects.filter(sender__lane_id__in=lane_ids, state=State.RUNNING)
            paused += pause_running(sorted(running.values_list("pk", flat=True)), reason, detail)
    return paused


def pause_running(broadcast_ids: Sequence[int], reason: str, detail: str) -> int:
    """Pause those of these broadcasts that still run, in the order of their ids, and say so."""
    paused = 0
    for broadcast_id in broadcast_ids:
        broadcast = locked_broadcast(broadcast_id)
        if broadcast.state == State.RUNNING:
            _pause(broadcast, reason, detail)
            paused += 1
    return paused


def end_incidents(broadcast: Broadcast) -> None:
    """Say that its pause is over, and that of every step that is no longer paused."""
    end_incident(tenant_id=broadcast.tenant_id, kind=PAUSED_KIND, scope=f"broadcast:{broadcast.pk}")
    paused = Q(state=StepState.PAUSED) & ~Q(broadcast__state=State.CANCELLED)
    for step_id in broadcast.steps.exclude(paused).values_list("pk", flat=True):
        end_incident(tenant_id=broadcast.tenant_id, kind=STEP_KIND, scope=f"step:{step_id}")


def _hold_step(step_id: int, reason: str, detail: str, code: str) -> int:
    step: BroadcastStep | None = BroadcastStep.objects.filter(pk=step_id).first()
    if step is None:
        return 0
    broadcast = locked_broadcast(step.broadcast_id)
    step.refresh_from_db(fields=["state"])  # under the lock
    if state := TEMPLATE_STATE_BY_CODE.get(code):
        MessageTemplate.objects.filter(pk=step.template_id, state=MessageTemplate.State.APPROVED).update(
            state=state, state_at=now()
        )
    if step.state not in (StepState.RUNNING, StepState.WAITING):
        return 0
    _set_step(step, StepState.PAUSED, detail or reason)
    if broadcast.state != State.RUNNING:
        return 0
    settle_steps(broadcast)
    if broadcast.state == State.PAUSED:
        return 1
    open_incident(
        tenant_id=broadcast.tenant_id,
        kind=STEP_KIND,
        scope=f"step:{step.pk}",
        summary=f"Step {step.position} of “{broadcast.name}” is paused, the others go on: {detail}"[:300],
    )
    return 0


def _pause(broadcast: Broadcast, reason: str, detail: str) -> None:
    broadcast.state = State.PAUSED
    broadcast.pause_reason = reason if reason in Reason.values else Reason.FAILURES
    broadcast.pause_detail = detail
    broadcast.save(update_fields=["state", "pause_reason", "pause_detail"])
    log.warning("broadcast paused", broadcast=broadcast.pk, reason=str(reason))
    open_incident(
        tenant_id=broadcast.tenant_id,
        kind=PAUSED_KIND,
        scope=f"broadcast:{broadcast.pk}",
        summary=f"“{broadcast.name}” paused itself ({reason}): {detail}"[:300],
        severity="critical" if reason in (Reason.SPAM, Reason.TOKEN, Reason.BILLING) else "warning",
    )


def _set_step(step: BroadcastStep, state: str, detail: str = "") -> None:
    step.state, step.pause_detail = state, detail
    step.save(update_fields=["state", "pause_detail"])


_QUEUED, _IN_HAND = Q(state="queued"), Q(state__in=["claimed", "sending"])  # the words of the partial indexes


def _busy() -> Q:
    """A condition on steps: a message of it is queued, claimed or sending. Two looks into partial indexes.

    One statement sees one moment, so a row on its way from queued to sending is not missed. "The first in
    the index's order" keeps the planner in the index: for a plain EXISTS it reads the table, sure to meet
    one soon, and reads all of it when there is none.
    """
    mine = Message.objects.filter(lane_id=OuterRef("broadcast__sender__lane_id"), step_id=OuterRef("pk"))
    first_queued = mine.filter(_QUEUED).order_by("due_at", "id").values("pk")[:1]
    first_in_hand = mine.filter(_IN_HAND).order_by("lane_id", "step_id").values("pk")[:1]
    return Q(IsNull(Subquery(first_queued), False)) | Q(IsNull(Subquery(first_in_hand), False))
