"""Asking for a run: one tick waits at a time, whatever carries it, and a broker that is away harms nobody."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from engine.clock import schedules
from engine.clock.schedules import enqueue
from engine.clock.tasks import tick
from engine.models import Heartbeat, TickRequest
from engine.processor.counts import Counts

pytestmark = pytest.mark.django_db(transaction=True)


class Broker:
    """Takes ticks as Redis does: at once, and whatever becomes of the transaction."""

    def __init__(self) -> None:
        self.ticks: list[str] = []
        self.away = False

    def __call__(self, function: str, queue: str, **_: Any) -> str:
        if self.away:
            raise ConnectionError("connection refused")
        self.ticks.append(queue)
        return "id"


@pytest.fixture(params=["", "redis://127.0.0.1:1/0"], ids=["database", "redis"])
def broker(request: pytest.FixtureRequest, settings: Any, monkeypatch: pytest.MonkeyPatch) -> Broker:
    settings.BROKER_URL = request.param
    taken = Broker()
    monkeypatch.setattr(schedules, "async_task", taken)
    return taken


def test_a_hundred_asks_are_one_tick(broker: Broker) -> None:
    for _ in range(100):
        enqueue("messaging")
    enqueue("events")
    assert broker.ticks == ["messaging", "events"]


def test_a_hundred_asks_of_a_hundred_transactions_are_one_tick(broker: Broker) -> None:
    for _ in range(100):
        with transaction.atomic():
            enqueue("messaging")
    assert broker.ticks == ["messaging"]


def test_an_ask_that_is_rolled_back_leaves_no_tick_and_blocks_no_other(broker: Broker) -> None:
    with transaction.atomic():
        enqueue("messaging")
        transaction.set_rollback(True)
    assert broker.ticks == []
    enqueue("messaging")
    assert broker.ticks == ["messaging"]


def test_no_tick_leaves_before_what_it_is_for_is_committed(broker: Broker) -> None:
    with transaction.atomic():
        enqueue("messaging")
        assert broker.ticks == []
    assert broker.ticks == ["messaging"]


def test_a_tick_that_has_begun_no_longer_waits(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    enqueue("events")
    begun: list[int] = []

    class Events:
        def run(self, **_: Any) -> Any:
            enqueue("events")  # came in while it looks: wants a look of its own
            begun.append(len(broker.ticks))
            return counts()

    monkeypatch.setattr("engine.clock.tasks.get_queue", lambda _: Events())
    tick("events")
    assert begun == [2]


def test_a_tick_that_was_lost_is_asked_for_again_after_a_minute(broker: Broker) -> None:
    enqueue("messaging")
    age_request(timedelta(seconds=50))
    enqueue("messaging")
    assert broker.ticks == ["messaging"]
    age_request(timedelta(seconds=70))
    enqueue("messaging")
    assert broker.ticks == ["messaging", "messaging"]


def test_a_broker_that_is_away_neither_fails_the_caller_nor_blocks_the_next_ask(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    broker.away = True
    with transaction.atomic():
        Heartbeat.objects.create(cluster="work", process="here:1")
        enqueue("messaging")
    assert Heartbeat.objects.filter(cluster="work").exists()
    assert "no tick could be queued" in caplog.text
    broker.away = False
    enqueue("messaging")
    assert broker.ticks == ["messaging"]


def test_a_cluster_that_works_on_ticks_is_seen_working(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeat does not wait behind the ticks in the queue."""
    seen: list[bool] = []

    class Busy:
        def run(self, **_: Any) -> Any:
            late = timezone.now() - timedelta(seconds=5)
            seen.append(Heartbeat.objects.filter(cluster="messaging", beat_at__gt=late).exists())
            return counts()

    monkeypatch.setattr("engine.clock.tasks.get_queue", lambda _: Busy())
    tick("messaging")
    assert seen == [True]


def counts() -> Counts:
    return Counts("events")


def age_request(by: timedelta) -> None:
    TickRequest.objects.update(asked_at=timezone.now() - by)
