"""Status webhooks: signed, repeated until acknowledged, and as disorderly as they are told to be."""

from __future__ import annotations

import time
from collections import Counter

import httpx
import pytest

from providers.base import Done, InDoubt
from providers.whatsapp import TemplateStatus, read_send
from sandbox import SandboxConfig, running
from tests.sandbox.conftest import NUMBER
from tests.sandbox.receiver import APP_SECRET, receiving

FAST = SandboxConfig(
    latency_ms=(0, 0),
    rate=0,
    webhook_secret=APP_SECRET,
    webhook_interval=0.02,
    webhook_retry=0.02,
    sent_after=0.0,
    delivered_after=0.05,
    read_after=0.1,
    read=1.0,
)


def to(n: int) -> str:
    return f"+4915112{n:06}"


def test_every_accepted_message_is_reported_in_order_and_with_our_attempt(send, stats):
    with receiving() as receiver, running(FAST.merge({"webhook_url": receiver.url})) as vendor:
        outcome = read_send(send(vendor.url))
        receiver.wait(lambda seen: len(seen.events) == 3)
        counted = stats(vendor.url)["webhooks"]
    assert isinstance(outcome, Done)
    assert [event.status for event in receiver.statuses] == ["sent", "delivered", "read"]
    for event in receiver.statuses:
        assert event.wamid == outcome.fields["wamid"]
        assert (event.phone_number_id, event.attempt) == (NUMBER, "attempt-+4915112345678")
        assert (event.recipient, event.pricing_category) == ("4915112345678", "marketing")
    assert (counted["queued"], counted["acknowledged"], counted["pending"]) == (3, 3, 0)
    assert counted["by_status"] == {"sent": 1, "delivered": 1, "read": 1}


def test_refused_posts_are_repeated_until_they_are_taken(send, stats):
    with receiving(500, 403, 302) as receiver, running(FAST.merge({"webhook_url": receiver.url})) as vendor:
        send(vendor.url)
        receiver.wait(lambda seen: len(seen.events) == 3)
        counted = stats(vendor.url)["webhooks"]
    assert receiver.refused == 3
    assert counted["refused"] == 3
    assert counted["acknowledged"] == 3


def test_a_callback_that_is_down_gets_everything_once_it_is_up(send, stats):
    with running(FAST) as vendor, receiving() as receiver:
        vendor.sandbox.whatsapp.configure(FAST.merge({"webhook_url": "http://127.0.0.1:1/"}))
        send(vendor.url)
        deadline = time.monotonic() + 15
        while not stats(vendor.url)["webhooks"]["unreachable"]:
            assert time.monotonic() < deadline
        vendor.sandbox.whatsapp.configure(FAST.merge({"webhook_url": receiver.url}))
        receiver.wait(lambda seen: len(seen.events) == 3)


def test_updates_are_gathered_into_posts(send):
    config = FAST.merge({"webhook_batch": 10, "sent_after": 0.5, "delivered_after": 0.5, "read_after": 0.5})
    with receiving() as receiver, running(config.merge({"webhook_url": receiver.url})) as vendor:
        for n in range(20):
            send(vendor.url, to=to(n))
        receiver.wait(lambda seen: len(seen.events) == 60)
    assert max(receiver.sizes) <= 10
    assert len(receiver.sizes) < 30


def test_single_updates_are_single(send):
    config = FAST.merge({"webhook_batch": 1})
    with receiving() as receiver, running(config.merge({"webhook_url": receiver.url})) as vendor:
        send(vendor.url)
        receiver.wait(lambda seen: len(seen.events) == 3)
    assert receiver.sizes == [1, 1, 1]


def test_shuffled_copies_all_arrive_and_out_of_order(send):
    config = FAST.merge(
        {"webhook_copies": 4, "webhook_shuffle": True, "delivered_after": 0.2, "read_after": 0.3}
    )
    with receiving() as receiver, running(config.merge({"webhook_url": receiver.url})) as vendor:
        for n in range(10):
            send(vendor.url, to=to(n))
        receiver.wait(lambda seen: len(seen.events) == 120)
    assert set(Counter((event.attempt, event.status) for event in receiver.statuses).values()) == {4}
    firsts: dict[str | None, str] = {}
    for event in receiver.statuses:
        firsts.setdefault(event.attempt, event.status)
    assert set(firsts.values()) != {"sent"}, "ten of ten in order: a chance of one in 59,049"


def test_a_status_can_arrive_before_the_sends_own_answer(send):
    config = FAST.merge({"webhook_first": True, "delivered": 0.0})
    with receiving(503) as receiver, running(config.merge({"webhook_url": receiver.url})) as vendor:
        outcome = read_send(send(vendor.url))
        arrived = [event.wamid for event in receiver.statuses]  # without waiting
    assert isinstance(outcome, Done)
    assert arrived == [outcome.fields["wamid"]]


def test_failures_after_acceptance_come_with_their_code(send):
    config = FAST.merge({"failed": {"131026": 0.5, "131049": 0.5}})
    with receiving() as receiver, running(config.merge({"webhook_url": receiver.url})) as vendor:
        for n in range(40):
            assert isinstance(read_send(send(vendor.url, to=to(n))), Done)
        receiver.wait(lambda seen: len(seen.events) == 40)
    assert {event.status for event in receiver.statuses} == {"failed"}
    assert {event.error_code for event in receiver.statuses} == {"131026", "131049"}
    assert all(event.error_title and event.error_detail for event in receiver.statuses)


def test_some_statuses_can_be_left_out(send):
    config = FAST.merge({"skip_delivered": 1.0})
    with receiving() as receiver, running(config.merge({"webhook_url": receiver.url})) as vendor:
        send(vendor.url)
        receiver.wait(lambda seen: len(seen.events) == 2)
    assert [event.status for event in receiver.statuses] == ["sent", "read"]


@pytest.mark.parametrize("fault", ["reset_after", "hang_after", "unreadable"])
def test_a_message_whose_answer_was_lost_is_still_reported(fault, send):
    config = FAST.merge({fault: 1.0})
    with receiving() as receiver, running(config.merge({"webhook_url": receiver.url})) as vendor:
        assert isinstance(read_send(send(vendor.url, timeout=0.4)), InDoubt)
        receiver.wait(lambda seen: len(seen.events) == 3)
    assert receiver.statuses[0].attempt == "attempt-+4915112345678"


@pytest.mark.parametrize("fault", ["reset_before", "fail_graph", "fail_bare"])
def test_a_message_that_was_not_accepted_is_not_reported(fault, send, stats):
    config = FAST.merge({fault: 1.0})
    with receiving() as receiver, running(config.merge({"webhook_url": receiver.url})) as vendor:
        send(vendor.url)
        assert stats(vendor.url)["webhooks"]["queued"] == 0
    assert receiver.events == []


def test_any_other_webhook_can_be_posted_by_hand():
    value = {"event": "PAUSED", "message_template_name": "offer", "message_template_language": "en"}
    with receiving() as receiver, running(FAST.merge({"webhook_url": receiver.url})) as vendor:
        answer = httpx.post(
            f"{vendor.url}/_sandbox/webhook",
            json={"field": "message_template_status_update", "value": value},
            trust_env=False,
        )
        receiver.wait(lambda seen: seen.events)
    assert answer.status_code == 202
    (event,) = receiver.events
    assert isinstance(event, TemplateStatus)
    assert (event.name, event.event) == ("offer", "PAUSED")
