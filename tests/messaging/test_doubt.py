"""Doubt has an end: a sender's own, a person's, or a late word of the vendor, which is stronger than both."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils.timezone import now
from rest_framework.test import APIClient

from campaigns.actions import pause_campaign
from engine.models import Incident
from engine.store.attempts import new_attempt
from engine.watch.checks import reconcile
from messaging.actions import (
    cancel_broadcast,
    create_sender,
    launch_broadcast,
    pause_broadcast,
    resend_in_doubt,
    resolve_in_doubt,
    resume_broadcast,
    retry_failed,
    tend_broadcasts,
    update_sender,
)
from messaging.models import Broadcast, Message, Sender
from messaging.statuses import apply_whatsapp
from messaging.watch import long_in_doubt
from tenants.actions import create_api_key
from tenants.errors import ActionRefused
from tenants.models import Tenant
from tests.messaging.build import make_broadcast, make_contacts, make_token, settle, states, step_states
from tests.messaging.test_statuses import end_state, send, status, webhook


def ago(minutes: float) -> datetime:
    return now() - timedelta(minutes=minutes)


def doubtful(tenant: Tenant, *minutes: float, n: int = 4) -> Broadcast:
    """A completed broadcast of n messages, of which one each has been in doubt for so many minutes."""
    make_contacts(tenant, n)
    broadcast = make_broadcast(tenant)
    launch_broadcast(broadcast_id=broadcast.pk)
    for since in minutes:
        message = Message.objects.filter(broadcast=broadcast, state="queued").earliest("pk")
        send(message, state="in_doubt")
        Message.objects.filter(pk=message.pk).update(in_doubt_at=ago(since))
    settle(broadcast, "accepted")
    tend_broadcasts()
    broadcast.refresh_from_db()
    return broadcast


# -- a person's word


def test_those_in_doubt_since_then_are_sent_again_and_a_completed_broadcast_runs_again(
    acme: Tenant, globex: Tenant
) -> None:
    broadcast, other = doubtful(acme, 61, 59), doubtful(globex, 61)
    assert broadcast.state == "completed"

    assert resend_in_doubt(broadcast_id=broadcast.pk, older_than_minutes=60) == 1

    broadcast.refresh_from_db()
    assert (broadcast.state, broadcast.ended_at, step_states(broadcast)) == ("running", None, ["running"])
    assert states(broadcast) == {"queued": 1, "in_doubt": 1, "accepted": 2}
    message = Message.objects.get(broadcast=broadcast, state="queued")
    assert (message.attempt, message.in_doubt_at, message.run, message.error_code) == (None, None, None, "")
    assert states(other) == {"in_doubt": 1, "accepted": 3}
    assert resend_in_doubt(broadcast_id=broadcast.pk, older_than_minutes=60) == 0


def test_those_of_which_nobody_knows_since_when_are_left(acme: Tenant) -> None:
    broadcast = doubtful(acme, 600)
    Message.objects.filter(state="in_doubt").update(in_doubt_at=None)
    assert resend_in_doubt(broadcast_id=broadcast.pk, older_than_minutes=1) == 0


@pytest.mark.parametrize("minutes", [0, -5, 43_201])
def test_how_long_is_between_a_minute_and_a_month(acme: Tenant, minutes: int) -> None:
    broadcast = doubtful(acme, 600)
    with pytest.raises(ActionRefused, match="minutes") as refused:
        resend_in_doubt(broadcast_id=broadcast.pk, older_than_minutes=minutes)
    assert refused.value.field == "older_than_minutes"


def test_nothing_is_sent_again_for_a_cancelled_broadcast_or_one_that_cannot_go_on(acme: Tenant) -> None:
    broadcast = doubtful(acme, 600)
    pause_campaign(campaign_id=broadcast.campaign_id)
    with pytest.raises(ActionRefused, match="is paused"):
        resend_in_doubt(broadcast_id=broadcast.pk, older_than_minutes=60)
    running = make_broadcast(acme)
    launch_broadcast(broadcast_id=running.pk)
    settle(running, "in_doubt", 1, in_doubt_at=ago(600))
    cancel_broadcast(broadcast_id=running.pk)
    with pytest.raises(ActionRefused, match="is cancelled: it cannot be sent again"):
        resend_in_doubt(broadcast_id=running.pk, older_than_minutes=60)
    for one in (broadcast, running):
        assert states(one)["in_doubt"] == 1
        assert "queued" not in states(one)


def test_a_paused_broadcast_keeps_them_until_it_is_resumed(acme: Tenant) -> None:
    make_contacts(acme, 2)
    broadcast = make_broadcast(acme)
    launch_broadcast(broadcast_id=broadcast.pk)
    settle(broadcast, "in_doubt", 1, in_doubt_at=ago(90))
    pause_broadcast(broadcast_id=broadcast.pk)
    assert resend_in_doubt(broadcast_id=broadcast.pk, older_than_minutes=60) == 1
    broadcast.refresh_from_db()
    assert broadcast.state == "paused"
    resume_broadcast(broadcast_id=broadcast.pk)
    assert states(broadcast) == {"queued": 2}


def test_the_api_resends_for_its_own_tenant_only(acme: Tenant, globex: Tenant) -> None:
    broadcast, theirs = doubtful(acme, 600, 30), doubtful(globex, 600)
    client = APIClient(headers={"Authorization": f"Bearer {create_api_key(tenant=acme)}"})
    path = "/api/v1/broadcasts/{}/resend-in-doubt/"
    for body in ({}, {"older_than_minutes": 0}, {"older_than_minutes": "long"}, {"older_than": 5}):
        assert client.post(path.format(broadcast.pk), body, format="json").status_code == 400, body
    answer = client.post(path.format(broadcast.pk), {"older_than_minutes": 60}, format="json")
    assert (answer.status_code, answer.json()) == (200, {"resent": 1})
    assert client.post(path.format(theirs.pk), {"older_than_minutes": 60}, format="json").status_code == 404
    assert states(theirs)["in_doubt"] == 1


# -- a sender's own end


def test_a_sender_that_says_so_sends_again_by_itself_at_most_twice(acme: Tenant, globex: Tenant) -> None:
    broadcast, silent = doubtful(acme, 31, 29), doubtful(globex, 600)
    tend_broadcasts()
    assert states(broadcast)["in_doubt"] == 2, "off unless a sender says otherwise"
    update_sender(sender_id=broadcast.sender_id, in_doubt_minutes=30)

    for attempts in (1, 2):
        tend_broadcasts()
        broadcast.refresh_from_db()
        assert broadcast.state == "running"
        message = Message.objects.get(broadcast=broadcast, state="queued")
        assert message.attempts == attempts
        send(message, attempts + 1, state="in_doubt")
        Message.objects.filter(pk=message.pk).update(in_doubt_at=ago(31))
    tend_broadcasts()

    broadcast.refresh_from_db()
    assert (broadcast.state, states(broadcast)) == ("completed", {"in_doubt": 2, "accepted": 2})
    assert states(silent)["in_doubt"] == 1


def test_a_broadcast_that_cannot_go_on_keeps_its_doubts_and_no_incident_is_made_of_it(acme: Tenant) -> None:
    broadcast = doubtful(acme, 600)
    update_sender(sender_id=broadcast.sender_id, in_doubt_minutes=30)
    pause_campaign(campaign_id=broadcast.campaign_id)
    tend_broadcasts()
    assert states(broadcast)["in_doubt"] == 1
    assert not Incident.objects.filter(kind="broadcast_upkeep").exists()


@pytest.mark.parametrize("minutes", [0, 4, 10_081])
def test_a_sender_doubts_for_five_minutes_to_seven_days(acme: Tenant, minutes: int) -> None:
    broadcast = doubtful(acme)
    with pytest.raises(ActionRefused, match="5 to 10,080") as refused:
        update_sender(sender_id=broadcast.sender_id, in_doubt_minutes=minutes)
    assert refused.value.field == "in_doubt_minutes"
    token = make_token(acme)
    with pytest.raises(ActionRefused, match="5 to 10,080"):
        create_sender(
            tenant_id=acme.pk,
            provider_token_id=token.pk,
            kind="whatsapp",
            address="7",
            in_doubt_minutes=minutes,
        )
    with pytest.raises(IntegrityError, match="sender_doubts_for_a_while"), transaction.atomic():
        Sender.objects.filter(pk=broadcast.sender_id).update(in_doubt_minutes=minutes)
    update_sender(sender_id=broadcast.sender_id, in_doubt_minutes=5)
    update_sender(sender_id=broadcast.sender_id, in_doubt_minutes=None)


# -- the vendor's late word

WORDS: list[tuple[str, str]] = [("sent", "sent"), ("delivered", "delivered"), ("read", "read")]


@pytest.mark.parametrize("held", ["queued", "claimed"])
@pytest.mark.parametrize(("word", "state"), WORDS)
def test_a_status_of_the_earlier_attempt_cancels_a_resend_that_has_not_left(
    acme: Tenant, word: str, state: str, held: str
) -> None:
    broadcast = doubtful(acme, 600)
    message = Message.objects.get(broadcast=broadcast, state="in_doubt")
    old = message.attempt
    resend_in_doubt(broadcast_id=broadcast.pk, older_than_minutes=60)
    Message.objects.filter(pk=message.pk).update(state=held, run=7 if held == "claimed" else None)

    apply_whatsapp([webhook(broadcast.sender.address, status(message, word, 1, old))])

    assert end_state(message)[0] == state
    assert (message.attempt, message.wamid) == (old, f"wamid.{message.pk}")
    assert message.accepted_at is not None
    # it is that attempt's message again: what fails it later fails it
    apply_whatsapp([webhook(broadcast.sender.address, status(message, "failed", 2, old, 131026))])
    assert end_state(message)[0] == ("failed" if state == "sent" else state)


def test_a_resend_under_way_is_not_answered_for_by_the_earlier_attempt(acme: Tenant) -> None:
    broadcast = doubtful(acme, 600)
    message = Message.objects.get(broadcast=broadcast, state="in_doubt")
    old = message.attempt
    resend_in_doubt(broadcast_id=broadcast.pk, older_than_minutes=60)
    new = send(message, 2)
    apply_whatsapp([webhook(broadcast.sender.address, status(message, "sent", 1, old))])
    assert (end_state(message)[0], message.attempt) == ("sending", new)


def test_a_failure_of_the_earlier_attempt_lets_the_resend_go_whatever_comes_after_it(acme: Tenant) -> None:
    broadcast = doubtful(acme, 600)
    message = Message.objects.get(broadcast=broadcast, state="in_doubt")
    old = message.attempt
    resend_in_doubt(broadcast_id=broadcast.pk, older_than_minutes=60)
    address = broadcast.sender.address
    for told in (("failed", 2, old, 131000), ("sent", 1, old), ("failed", 2, old, 131000)):
        apply_whatsapp([webhook(address, status(message, *told))])
        assert end_state(message)[0] == "queued"
    assert message.dismissed == [old]
    both = status(message, "sent", 1, old), status(message, "failed", 2, old, 131000)
    apply_whatsapp([webhook(address, *both)])
    assert end_state(message)[0] == "queued"


def test_every_attempt_that_failed_before_is_remembered(acme: Tenant) -> None:
    broadcast = doubtful(acme, 600)
    message = Message.objects.get(broadcast=broadcast, state="in_doubt")
    address, old = broadcast.sender.address, []
    for number in (1, 2):
        old.append(send(message, number, state="accepted"))
        apply_whatsapp([webhook(address, status(message, "failed", number, old[-1], 131000))])
        assert retry_failed(broadcast_id=broadcast.pk) == 1
    for attempt in old:
        apply_whatsapp([webhook(address, status(message, "sent", 1, attempt))])
        assert end_state(message)[0] == "queued"


def test_one_that_a_person_declared_unsent_and_retried_is_spared_when_it_was_sent(acme: Tenant) -> None:
    broadcast = doubtful(acme, 600)
    message = Message.objects.get(broadcast=broadcast, state="in_doubt")
    old = message.attempt
    resolve_in_doubt(message_ids=[message.pk], outcome="failed")
    assert retry_failed(broadcast_id=broadcast.pk) == 1
    apply_whatsapp([webhook(broadcast.sender.address, status(message, "sent", 1, old))])
    assert end_state(message)[0] == "sent"


# -- the incident


def test_the_incident_counts_from_when_the_doubt_began(acme: Tenant, globex: Tenant) -> None:
    young, old = doubtful(acme, 5), doubtful(globex, 61)
    Message.objects.update(due_at=now() - timedelta(days=2))
    reconcile("in_doubt", long_in_doubt())
    incident = Incident.objects.get(kind="in_doubt", ended_at=None)
    assert (incident.tenant_id, incident.scope) == (globex.pk, f"broadcast:{old.pk}")
    resend_in_doubt(broadcast_id=old.pk, older_than_minutes=60)
    reconcile("in_doubt", long_in_doubt())
    assert not Incident.objects.filter(kind="in_doubt", ended_at=None).exists()
    assert states(young)["in_doubt"] == 1


def test_an_attempt_of_another_row_cancels_nothing(acme: Tenant) -> None:
    broadcast = doubtful(acme, 600, 600)
    first, second = Message.objects.filter(state="in_doubt").order_by("pk")
    resend_in_doubt(broadcast_id=broadcast.pk, older_than_minutes=60)
    stranger: Any = new_attempt(second.pk + 1000, 1)
    apply_whatsapp([webhook(broadcast.sender.address, status(first, "sent", 1, stranger))])
    assert states(broadcast)["queued"] == 2
