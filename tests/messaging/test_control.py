"""What becomes of a broadcast on its way: step after step, paused, resumed, cancelled, tried again."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils.timezone import now

from engine.models import Incident, Lane
from messaging.actions import (
    advance_broadcast,
    cancel_broadcast,
    cancel_leftovers,
    create_sender,
    hold_broadcasts,
    launch_broadcast,
    pause_broadcast,
    resolve_in_doubt,
    resume_broadcast,
    retry_failed,
    tend_broadcasts,
    update_sender,
    update_template,
)
from messaging.actions import control as control_module
from messaging.models import Broadcast, BroadcastStep, Message
from tenants.errors import ActionRefused
from tenants.models import ProviderToken, Tenant
from tenants.scope import tenant_scope
from tests.messaging.build import (
    make_broadcast,
    make_contacts,
    make_sender,
    make_template,
    make_token,
    settle,
    states,
    step_states,
)


@pytest.fixture
def broadcast(acme: Tenant) -> Broadcast:
    """Two steps of ten messages each, running."""
    make_contacts(acme, 20)
    made = make_broadcast(acme, make_template(acme), make_template(acme), shares=(50, 50))
    launch_broadcast(broadcast_id=made.pk)
    made.refresh_from_db()
    return made


def state_of(broadcast: Broadcast) -> tuple[str, str]:
    broadcast.refresh_from_db()
    return broadcast.state, broadcast.pause_reason


def first_step(broadcast: Broadcast) -> BroadcastStep:
    return BroadcastStep.objects.get(broadcast=broadcast, position=1)


# -- step after step


def test_a_step_begins_when_the_one_before_has_nothing_left(broadcast: Broadcast) -> None:
    settle(broadcast, "accepted", 9)
    assert advance_broadcast(broadcast.pk) == "running"
    assert step_states(broadcast) == ["running", "waiting"]

    settle(broadcast, "sending")
    advance_broadcast(broadcast.pk)
    assert step_states(broadcast) == ["running", "waiting"]

    # in doubt does not hold the others up: it may take an operator a day
    Message.objects.filter(state="sending").update(state="in_doubt")
    advance_broadcast(broadcast.pk)
    assert step_states(broadcast) == ["done", "running"]

    settle(broadcast, "failed", position=2)
    assert advance_broadcast(broadcast.pk) == "completed"
    assert step_states(broadcast) == ["done", "done"]
    broadcast.refresh_from_db()
    assert broadcast.ended_at is not None


def test_asking_a_busy_broadcast_to_advance_is_one_query(
    broadcast: Broadcast, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(1):
        advance_broadcast(broadcast.pk)


def test_a_paused_broadcast_does_not_advance(broadcast: Broadcast) -> None:
    pause_broadcast(broadcast_id=broadcast.pk)
    settle(broadcast, "accepted")
    assert advance_broadcast(broadcast.pk) == "paused"
    assert step_states(broadcast) == ["running", "waiting"]
    resume_broadcast(broadcast_id=broadcast.pk)
    assert step_states(broadcast) == ["done", "running"]


# -- pause and resume


def test_an_operator_pauses_and_resumes(broadcast: Broadcast) -> None:
    pause_broadcast(broadcast_id=broadcast.pk, detail="the client rang")
    assert state_of(broadcast) == ("paused", "operator")
    with pytest.raises(ActionRefused, match=r"is paused \(operator\): it cannot be paused"):
        pause_broadcast(broadcast_id=broadcast.pk)
    resume_broadcast(broadcast_id=broadcast.pk)
    assert state_of(broadcast) == ("running", "")
    with pytest.raises(ActionRefused, match="is running: it cannot be resumed"):
        resume_broadcast(broadcast_id=broadcast.pk)


def test_a_held_step_leaves_the_others_going_until_it_is_the_last(broadcast: Broadcast) -> None:
    hold_broadcasts(
        step_id=first_step(broadcast).pk, reason="template", code="132015", detail="132015: paused"
    )
    assert step_states(broadcast) == ["paused", "running"]
    assert state_of(broadcast) == ("running", "")
    assert [incident.kind for incident in Incident.objects.all()] == ["step_paused"]

    settle(broadcast, "accepted", position=2)
    assert advance_broadcast(broadcast.pk) == "paused"
    assert state_of(broadcast) == ("paused", "template")
    assert "132015" in broadcast.pause_detail

    with pytest.raises(ActionRefused, match=r"Template .* is paused"):
        resume_broadcast(broadcast_id=broadcast.pk)
    update_template(template_id=first_step(broadcast).template_id, state="approved")
    resume_broadcast(broadcast_id=broadcast.pk)
    assert step_states(broadcast) == ["running", "done"]
    assert not Incident.objects.filter(ended_at=None).exists()


def test_a_step_that_is_held_after_its_last_message_left_is_done(broadcast: Broadcast) -> None:
    settle(broadcast, "accepted")
    hold_broadcasts(step_id=first_step(broadcast).pk, reason="template")
    assert step_states(broadcast) == ["done", "running"]


def test_a_held_number_pauses_every_broadcast_on_it_and_no_other(
    broadcast: Broadcast, acme: Tenant, globex: Tenant
) -> None:
    beside = make_broadcast(acme, sender=broadcast.sender)
    elsewhere = make_broadcast(acme)
    make_contacts(globex, 1)
    theirs = make_broadcast(globex)
    for one in (beside, elsewhere, theirs):
        launch_broadcast(broadcast_id=one.pk)

    assert hold_broadcasts(lane_ids=[broadcast.sender.lane_id], reason="spam", detail="131048: spam") == 2
    assert hold_broadcasts(lane_ids=[broadcast.sender.lane_id], reason="spam", detail="again") == 0

    assert state_of(broadcast) == state_of(beside) == ("paused", "spam")
    assert state_of(elsewhere) == state_of(theirs) == ("running", "")
    incidents = Incident.objects.filter(kind="broadcast_paused")
    assert {(i.tenant_id, i.scope, i.severity) for i in incidents} == {
        (acme.pk, f"broadcast:{broadcast.pk}", "critical"),
        (acme.pk, f"broadcast:{beside.pk}", "critical"),
    }
    # resuming says that the number may go on, and that ends the incident
    resume_broadcast(broadcast_id=broadcast.pk)
    assert Lane.objects.get(pk=broadcast.sender.lane_id).paused_at is None
    assert Incident.objects.get(scope=f"broadcast:{broadcast.pk}").ended_at is not None
    assert Incident.objects.get(scope=f"broadcast:{beside.pk}").ended_at is None


def test_a_dead_token_must_work_again_before_anything_resumes(broadcast: Broadcast, acme: Tenant) -> None:
    token = broadcast.sender.provider_token
    second = make_broadcast(acme, sender=make_sender(acme, token=token))
    launch_broadcast(broadcast_id=second.pk)
    assert hold_broadcasts(token_id=token.pk, reason="token", detail="190: expired") == 2
    assert state_of(broadcast) == state_of(second) == ("paused", "token")
    token.refresh_from_db()
    assert (token.state, token.last_error) == ("failing", "190: expired")
    with pytest.raises(ActionRefused, match="is failing"):
        resume_broadcast(broadcast_id=broadcast.pk)
    ProviderToken.objects.filter(pk=token.pk).update(state="active")
    resume_broadcast(broadcast_id=broadcast.pk)
    assert state_of(broadcast) == ("running", "")


def test_a_number_held_for_another_reason_is_not_resumed_in_passing(broadcast: Broadcast) -> None:
    pause_broadcast(broadcast_id=broadcast.pk)
    Lane.objects.filter(pk=broadcast.sender.lane_id).update(paused_at=now(), pause_reason="spam")
    with pytest.raises(ActionRefused, match=r"is held \(spam\)"):
        resume_broadcast(broadcast_id=broadcast.pk)
    assert Lane.objects.get(pk=broadcast.sender.lane_id).paused_at is not None


# -- cancel


def test_cancelling_ends_what_is_queued_and_lets_the_rest_finish(broadcast: Broadcast) -> None:
    settle(broadcast, "accepted", 4)
    settle(broadcast, "sending", 2)
    assert cancel_broadcast(broadcast_id=broadcast.pk) == 14
    assert states(broadcast) == {"accepted": 4, "sending": 2, "cancelled": 14}
    for verb in (cancel_broadcast, pause_broadcast, resume_broadcast, retry_failed):
        with pytest.raises(ActionRefused, match="is cancelled"):
            verb(broadcast_id=broadcast.pk)


def test_what_is_given_back_after_a_cancel_is_cancelled_by_the_minutes_tick(
    broadcast: Broadcast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module, "CANCEL_AT_ONCE", 5)
    settle(broadcast, "claimed", 3)
    assert cancel_broadcast(broadcast_id=broadcast.pk) == 5
    Message.objects.filter(state="claimed").update(state="queued")
    assert cancel_leftovers() == 15
    assert states(broadcast) == {"cancelled": 20}


def test_drafts_can_be_cancelled(acme: Tenant) -> None:
    draft = make_broadcast(acme)
    assert cancel_broadcast(broadcast_id=draft.pk) == 0
    with pytest.raises(ActionRefused, match="is cancelled: only a draft"):
        launch_broadcast(broadcast_id=draft.pk)


# -- retry, in doubt

CODES: list[tuple[str, bool]] = [
    ("131000", True),
    ("131056", True),
    ("unsent", True),
    ("http_429", True),
    ("190", True),
    ("132015", True),
    ("131026", False),
    ("131049", False),
    ("131050", False),
    ("132012", False),
    ("777777", False),
    ("", False),
]


@pytest.mark.parametrize(("code", "again"), CODES)
def test_only_failures_that_may_pass_are_tried_again(broadcast: Broadcast, code: str, again: bool) -> None:
    settle(broadcast, "failed", 3, error_code=code, failed_at=now(), wamid="wamid.1")
    settle(broadcast, "in_doubt", 1)
    assert retry_failed(broadcast_id=broadcast.pk) == (3 if again else 0)
    assert states(broadcast).get("failed", 0) == (0 if again else 3)
    assert states(broadcast)["in_doubt"] == 1


def test_a_completed_broadcast_runs_again_for_what_is_tried_again(broadcast: Broadcast) -> None:
    for position in (1, 2):
        settle(broadcast, "accepted", 8, position)
        settle(broadcast, "failed", None, position, error_code="131000", failed_at=now())
        advance_broadcast(broadcast.pk)
    assert state_of(broadcast)[0] == "completed"

    assert retry_failed(broadcast_id=broadcast.pk) == 4
    assert state_of(broadcast)[0] == "running"
    assert step_states(broadcast) == ["running", "waiting"]
    message = Message.objects.filter(state="queued").earliest("pk")
    assert (message.attempts, message.attempt, message.error_code, message.failed_at) == (0, None, "", None)


def test_an_operator_settles_what_is_in_doubt_of_their_own_tenant_only(
    broadcast: Broadcast, globex: Tenant
) -> None:
    settle(broadcast, "in_doubt", 3)
    ids = list(Message.objects.filter(state="in_doubt").order_by("pk").values_list("pk", flat=True))
    with tenant_scope(globex.pk):
        assert resolve_in_doubt(message_ids=ids, outcome="sent") == 0
    assert resolve_in_doubt(message_ids=ids[:1], outcome="sent") == 1
    assert resolve_in_doubt(message_ids=ids, outcome="failed") == 2
    assert states(broadcast) == {"queued": 17, "accepted": 1, "failed": 2}
    assert retry_failed(broadcast_id=broadcast.pk) == 2  # the operator has said that they never left


# -- the minute's tick, and senders


def test_the_minutes_tick_moves_on_what_nobody_else_did(broadcast: Broadcast, acme: Tenant) -> None:
    settle(broadcast, "accepted")
    tend_broadcasts()
    assert step_states(broadcast) == ["done", "running"]
    # somebody took the template out of use by hand
    second = BroadcastStep.objects.get(broadcast=broadcast, position=2)
    update_template(template_id=second.template_id, state="disabled")
    tend_broadcasts()
    assert state_of(broadcast) == ("paused", "template")


def test_a_new_rate_reaches_the_lane(acme: Tenant) -> None:
    sender = make_sender(acme, rate=80)
    Lane.objects.filter(pk=sender.lane_id).update(rate_now=20)
    update_sender(sender_id=sender.pk, rate_per_second=250)
    lane = Lane.objects.get(pk=sender.lane_id)
    assert (lane.rate_per_second, lane.rate_now, lane.name) == (250, None, sender.address)
    with pytest.raises(ActionRefused, match="1,000,000 messages a second"):
        update_sender(sender_id=sender.pk, rate_per_second=0)
    with pytest.raises(ActionRefused, match="address cannot be changed"):
        update_sender(sender_id=sender.pk, address="1")


def test_an_address_belongs_to_one_tenant(acme: Tenant, globex: Tenant) -> None:
    ours = make_sender(acme)
    token = make_token(globex)
    with tenant_scope(globex.pk), pytest.raises(ActionRefused, match="belongs to one sender of one tenant"):
        create_sender(tenant_id=globex.pk, provider_token_id=token.pk, kind="whatsapp", address=ours.address)
    assert not Lane.objects.filter(tenant=globex).exists()
    with pytest.raises(ActionRefused, match="needs a lime token"):
        create_sender(tenant_id=globex.pk, provider_token_id=token.pk, kind="sms", address="55")
    with pytest.raises(ActionRefused, match="no provider token"):
        create_sender(
            tenant_id=globex.pk, provider_token_id=ours.provider_token_id, kind="whatsapp", address="1"
        )
