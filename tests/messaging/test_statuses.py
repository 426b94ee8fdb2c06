"""What webhooks do to messages: the same end state in whatever order and however often they come (R4)."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from django.db import connection

from engine.models import Lane
from engine.store.attempts import new_attempt
from engine.store.claims import Claims, Settlement
from messaging.actions import launch_broadcast, resolve_in_doubt, retry_failed
from messaging.models import Broadcast, BroadcastStep, Message, MessageTemplate, Suppression
from messaging.processor import MessageProcessor
from messaging.statuses import apply_whatsapp
from tenants.models import ProviderToken, Tenant
from tests.messaging.build import make_broadcast, make_contacts, make_template, settle, states

T0 = 1_790_000_000


def launched(tenant: Tenant, n: int = 1, **fields: Any) -> Broadcast:
    make_contacts(tenant, n)
    broadcast = make_broadcast(tenant, **fields)
    launch_broadcast(broadcast_id=broadcast.pk)
    broadcast.refresh_from_db()
    return broadcast


def send(message: Message, number: int = 1, state: str = "sending") -> UUID:
    """Bring a message to where a runner has it when its request leaves."""
    attempt = new_attempt(message.pk, number)
    Message.objects.filter(pk=message.pk).update(state=state, attempt=attempt, attempts=number, run=1)
    return attempt


def status(
    message: Message, word: str, at: int, attempt: UUID | str | None = None, code: int = 0
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "id": f"wamid.{message.pk}",
        "status": word,
        "timestamp": str(T0 + at),
        "recipient_id": message.phone.lstrip("+"),
    }
    if attempt:
        told["biz_opaque_callback_data"] = str(attempt)
    if code:
        told["errors"] = [{"code": code, "title": "no", "error_data": {"details": f"detail of {code}"}}]
    return told


def webhook(address: str, *statuses: dict[str, Any]) -> bytes:
    value = {"metadata": {"phone_number_id": address}, "statuses": list(statuses)}
    changes = [{"field": "messages", "value": value}]
    return orjson.dumps({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": changes}]})


def end_state(message: Message) -> tuple[Any, ...]:
    message.refresh_from_db()
    times = (message.sent_at, message.delivered_at, message.read_at, message.failed_at)
    return (
        message.state,
        *(time and int(time.timestamp()) - T0 for time in times),
        message.error_code,
        message.error_detail,
    )


STORIES: list[tuple[str, list[tuple[str, int, int]], tuple[Any, ...]]] = [
    ("sent", [("sent", 1, 0)], ("sent", 1, None, None, None, "", "")),
    (
        "all three",
        [("sent", 1, 0), ("delivered", 3, 0), ("read", 9, 0)],
        ("read", 1, 3, 9, None, "", ""),
    ),
    ("read alone", [("read", 5, 0)], ("read", None, None, 5, None, "", "")),
    ("played is read", [("delivered", 2, 0), ("played", 4, 0)], ("read", None, 2, 4, None, "", "")),
    (
        "failed after sent",
        [("sent", 1, 0), ("failed", 2, 131026)],
        ("failed", 1, None, None, 2, "131026", "detail of 131026"),
    ),
    (
        "delivered is stronger than failed",
        [("failed", 1, 131026), ("delivered", 2, 0)],
        ("delivered", None, 2, None, 1, "131026", "detail of 131026"),
    ),
    (
        "the earliest of several",
        [("sent", 4, 0), ("sent", 2, 0), ("failed", 7, 131026), ("failed", 6, 131053), ("failed", 6, 131026)],
        ("failed", 2, None, None, 6, "131026", "detail of 131026"),
    ),
]


@pytest.mark.parametrize("before", ["sending", "accepted", "in_doubt"])
@pytest.mark.parametrize(
    ("story", "expected"), [(s, e) for _, s, e in STORIES], ids=[name for name, _, _ in STORIES]
)
def test_order_copies_and_batches_do_not_matter(
    acme: Tenant, story: list[tuple[str, int, int]], expected: tuple[Any, ...], before: str
) -> None:
    dice = random.Random(17)
    broadcast = launched(acme, 12)
    for message in Message.objects.filter(broadcast=broadcast):
        attempt = send(message, state=before)
        told = [status(message, word, at, attempt, code) for word, at, code in story] * 10
        dice.shuffle(told)
        while told:
            batch = [told.pop() for _ in range(min(len(told), dice.randint(1, 7)))]
            apply_whatsapp([webhook(broadcast.sender.address, one) for one in batch])
        assert end_state(message) == expected
        assert message.accepted_at is not None
        assert message.wamid == f"wamid.{message.pk}"


def test_a_status_that_comes_before_the_answer_settles_the_message(acme: Tenant) -> None:
    broadcast = launched(acme)
    message = Message.objects.get(broadcast=broadcast)
    attempt = send(message)
    apply_whatsapp([webhook(broadcast.sender.address, status(message, "delivered", 1, attempt))])
    assert end_state(message)[0] == "delivered"
    # the runner's own answer comes after it: it adds what a status cannot know, and takes nothing back
    answer = Settlement(message.pk, "accepted", attempts=1, code="late", fields={"wamid": "wamid.late"})
    with connection.cursor() as cursor:
        decided = Claims(MessageProcessor()).settle(cursor.cursor, run=1, settlements=[answer])
    assert decided == 0
    assert end_state(message) == ("delivered", None, 1, None, None, "", "")
    assert (message.attempts, message.attempt) == (1, attempt)


def test_statuses_without_our_attempt_are_found_by_the_vendors_id(acme: Tenant) -> None:
    broadcast = launched(acme, 2)
    first, second = Message.objects.filter(broadcast=broadcast).order_by("pk")
    for message in (first, second):
        send(message, state="accepted")
        Message.objects.filter(pk=message.pk).update(wamid=f"wamid.{message.pk}")
    apply_whatsapp(
        [
            webhook(
                broadcast.sender.address,
                status(first, "delivered", 1),
                status(second, "read", 2, "the app of somebody else wrote this"),
            )
        ]
    )
    assert (end_state(first)[0], end_state(second)[0]) == ("delivered", "read")


def test_a_notice_of_another_number_touches_nothing(acme: Tenant, globex: Tenant) -> None:
    ours, theirs = launched(acme), launched(globex)
    message = Message.objects.get(broadcast=ours)
    attempt = send(message)
    apply_whatsapp([webhook(theirs.sender.address, status(message, "read", 1, attempt))])
    apply_whatsapp([webhook("", status(message, "read", 1, attempt))])
    assert end_state(message)[0] == "sending"


def test_the_late_failure_of_an_older_attempt_does_not_undo_the_retry(acme: Tenant) -> None:
    broadcast = launched(acme)
    message = Message.objects.get(broadcast=broadcast)
    old = send(message, state="accepted")
    failure = webhook(broadcast.sender.address, status(message, "failed", 1, old, 131000))
    apply_whatsapp([failure])
    assert end_state(message)[0] == "failed"

    assert retry_failed(broadcast_id=broadcast.pk) == 1
    apply_whatsapp([failure, webhook(broadcast.sender.address, status(message, "sent", 0, old))])
    assert end_state(message) == ("queued", None, None, None, None, "", "")

    send(message, 2)
    apply_whatsapp([failure])
    assert end_state(message)[0] == "sending"
    # but if the older one arrived after all, it has arrived
    apply_whatsapp([webhook(broadcast.sender.address, status(message, "delivered", 3, old))])
    assert end_state(message)[0] == "delivered"


def test_two_attempts_in_one_batch_are_told_apart(acme: Tenant) -> None:
    broadcast = launched(acme)
    message = Message.objects.get(broadcast=broadcast)
    old, new = new_attempt(message.pk, 1), send(message, 2)
    apply_whatsapp(
        [
            webhook(
                broadcast.sender.address,
                status(message, "failed", 1, old, 131000),
                status(message, "sent", 2, new),
            )
        ]
    )
    assert end_state(message) == ("sent", 2, None, None, None, "", "")


@pytest.mark.parametrize(
    ("outcome", "word", "code", "expected"),
    [
        ("failed", "sent", 0, "sent"),
        ("failed", "delivered", 0, "delivered"),
        ("failed", "failed", 131026, "failed"),
        ("sent", "failed", 131026, "failed"),
        ("sent", "read", 0, "read"),
    ],
)
def test_a_webhook_is_stronger_than_an_operators_word(
    acme: Tenant, outcome: Any, word: str, code: int, expected: str
) -> None:
    broadcast = launched(acme)
    message = Message.objects.get(broadcast=broadcast)
    attempt = send(message, state="in_doubt")
    assert resolve_in_doubt(message_ids=[message.pk], outcome=outcome) == 1
    apply_whatsapp([webhook(broadcast.sender.address, status(message, word, 1, attempt, code))])
    found = end_state(message)
    assert found[0] == expected
    assert found[5] == (str(code) if code else "")


def test_unknown_statuses_and_foreign_attempts_are_passed_over(acme: Tenant) -> None:
    broadcast = launched(acme)
    message = Message.objects.get(broadcast=broadcast)
    attempt = send(message)
    elsewhere = new_attempt(2**59, 1)
    body = webhook(
        broadcast.sender.address,
        status(message, "warmed", 1, attempt),
        status(message, "read", 1, elsewhere),
        status(message, "read", 1, UUID(int=0)),
    )
    assert apply_whatsapp([body]) == 3
    assert end_state(message)[0] == "sending"


def test_who_opted_out_of_marketing_is_remembered(acme: Tenant, globex: Tenant) -> None:
    broadcast = launched(acme, 2)
    launched(globex)
    message = Message.objects.filter(broadcast=broadcast).earliest("pk")
    attempt = send(message, state="accepted")
    apply_whatsapp([webhook(broadcast.sender.address, status(message, "failed", 1, attempt, 131050))])
    suppression = Suppression.objects.get()
    assert (suppression.tenant_id, suppression.phone, suppression.channel) == (
        acme.pk,
        message.phone,
        "whatsapp_marketing",
    )


HOLDS: list[tuple[int, str, str, str]] = [
    (131048, "spam", "active", "spam"),
    (131031, "spam", "active", "spam"),
    (190, "token", "failing", "token"),
    (131042, "billing", "active", "billing"),
]


@pytest.mark.parametrize(("code", "reason", "token_state", "lane_reason"), HOLDS)
def test_a_failure_that_means_the_number_or_the_account_holds_every_broadcast_on_it(
    acme: Tenant, globex: Tenant, code: int, reason: str, token_state: str, lane_reason: str
) -> None:
    broadcast = launched(acme, 3)
    beside = make_broadcast(acme, sender=broadcast.sender)
    launch_broadcast(broadcast_id=beside.pk)
    other = launched(globex)
    message = Message.objects.filter(broadcast=broadcast).earliest("pk")
    attempt = send(message, state="accepted")

    apply_whatsapp([webhook(broadcast.sender.address, status(message, "failed", 1, attempt, code))])

    for paused in (broadcast, beside):
        paused.refresh_from_db()
        assert (paused.state, paused.pause_reason) == ("paused", reason)
        assert str(code) in paused.pause_detail
    assert Lane.objects.get(pk=broadcast.sender.lane_id).pause_reason == lane_reason
    assert ProviderToken.objects.get(pk=broadcast.sender.provider_token_id).state == token_state
    other.refresh_from_db()
    assert other.state == "running"
    assert Lane.objects.get(pk=other.sender.lane_id).paused_at is None


def test_a_failure_of_the_template_pauses_its_step_and_the_next_one_begins(acme: Tenant) -> None:
    make_contacts(acme, 10)
    broadcast = make_broadcast(acme, make_template(acme), make_template(acme), shares=(50, 50))
    launch_broadcast(broadcast_id=broadcast.pk)
    message = Message.objects.filter(broadcast=broadcast, step__position=1).earliest("pk")
    attempt = send(message, state="accepted")

    apply_whatsapp([webhook(broadcast.sender.address, status(message, "failed", 1, attempt, 132015))])

    first, second = BroadcastStep.objects.filter(broadcast=broadcast).order_by("position")
    assert (first.state, second.state) == ("paused", "running")
    assert MessageTemplate.objects.get(pk=first.template_id).state == "paused"
    broadcast.refresh_from_db()
    assert broadcast.state == "running"
    assert states(broadcast) == {"queued": 9, "failed": 1}


def test_ten_thousand_statuses_take_as_many_queries_as_ten(
    acme: Tenant, django_assert_max_num_queries: Any
) -> None:
    broadcast = launched(acme, 2500)
    settle(broadcast, "accepted", wamid="")
    messages = list(Message.objects.filter(broadcast=broadcast))
    for message in messages:
        message.attempt = new_attempt(message.pk, 1)
    Message.objects.bulk_update(messages, ["attempt"])
    told = [
        status(message, word, at, message.attempt)
        for message in messages
        for at, word in enumerate(("sent", "delivered", "read", "read"))
    ]
    bodies = [webhook(broadcast.sender.address, *told[i : i + 200]) for i in range(0, len(told), 200)]
    with django_assert_max_num_queries(1):
        assert apply_whatsapp(bodies) == 10_000
    assert states(broadcast) == {"read": 2500}
    assert (
        datetime.fromtimestamp(T0, UTC) == Message.objects.filter(broadcast=broadcast).earliest("pk").sent_at
    )
