"""A vendor that is away or hangs: little is lost finding out, and the lane comes back by itself."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace
from typing import Any

from django.utils import timezone

from engine.models import Lane
from engine.run.breaker import BREAKS_AFTER, RESTS, Breaker
from tests.engine.conftest import MakeLane
from tests.engine.queues import Letter, Letters, work
from tests.engine.vendor import Vendor


def test_ten_in_a_row_open_it_and_what_was_on_its_way_says_nothing_more() -> None:
    breaker = Breaker(openings=0)
    for n in range(100):
        breaker.left(n, 0.0)
    for n in range(BREAKS_AFTER - 1):
        assert breaker.broke(n, 1.0) is None
    assert breaker.broke(20, 1.0) == RESTS[0]
    assert [breaker.broke(n, 1.1) for n in range(30, 100)] == [None] * 70
    assert (breaker.openings, breaker.at_once) == (1, 1)


def test_rests_grow_and_one_call_that_hangs_is_enough_to_see() -> None:
    breaker = Breaker(openings=1)
    rests: list[float] = []
    for n in range(10):
        breaker.left(n, 10.0 * n)
        rests.append(breaker.broke(n, 10.0 * n + 5.0) or 0.0)
    assert rests == sorted(rests)
    assert rests[:2] == [*RESTS[1:3]]
    assert rests[-1] == RESTS[-1] == 900.0
    asked = sum(1 for n in range(len(rests)) if sum(rests[:n]) < 3600)
    assert asked <= 8, "at most a handful of calls are risked in an hour"


def test_a_call_that_breaks_at_once_is_not_taken_for_a_vendor_that_hangs() -> None:
    breaker = Breaker(openings=1)
    breaker.left(1, 0.0)
    assert breaker.broke(1, 0.1) is None
    breaker.left(2, 1.0)
    assert breaker.broke(2, 1.1) == RESTS[1]


def test_after_a_rest_one_call_goes_out_then_twice_as_many() -> None:
    breaker = Breaker(openings=3)
    allowed = []
    number = 0
    while (at_once := breaker.at_once) is not None:
        allowed.append(at_once)
        for _ in range(at_once):
            assert not breaker.full
            breaker.left(number, 0.0)
            number += 1
        assert breaker.full
        for done in range(number - at_once, number):
            breaker._in_flight.pop(done)
        breaker.answered(number, 0.1, 0.1, most=40)
    assert allowed == [1, 2, 4, 8, 16, 32]
    assert breaker.openings == 0


def test_a_vendor_that_breaks_some_calls_and_answers_most_is_come_back_to() -> None:
    """A fifth of the calls break at once, as in a bad hour; each alone would begin a longer rest."""
    dice = random.Random(5)
    rests = []
    for _ in range(200):
        breaker, number = Breaker(openings=1), 0
        while breaker.at_once is not None and breaker.openings == 1:
            number += 1
            breaker.left(number, number)
            if dice.random() < 0.2:
                breaker.broke(number, number + 0.1)
            else:
                breaker.answered(number, number + 0.1, 0.1, most=40)
        rests.append(breaker.openings)
    assert rests.count(0) >= 170, "of 200 lanes, of which 148 would rest again after one broken call"


def test_silence_is_noticed_long_before_the_time_out() -> None:
    breaker = Breaker(openings=0)
    for n in range(100):
        breaker.left(n, n / 80)
        breaker.answered(n, n / 80 + 0.15, 0.15, most=40)
    breaker.left(1000, 2.0)
    assert not breaker.silent(2.5)
    assert breaker.silent(4.0)
    breaker.answered(1000, 4.0, 2.0, most=40)
    breaker.left(1001, 4.0)
    assert not breaker.silent(7.0), "a vendor that got slow is not silent"


def test_a_vendor_that_hangs_costs_what_was_on_its_way_and_no_more(
    make_lane: MakeLane, vendor: Vendor
) -> None:
    class Hasty(Letters):
        def plan(self, lane: Any, request: Any) -> Any:
            return replace(super().plan(lane, request), timeout=2.0)

    lane = make_lane(Letters, rate_per_second=80)
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=f"p{n}") for n in range(600))
    hanging = threading.Event()
    over = threading.Event()

    vendor.answer = lambda _: (200, {"id": "v"})
    vendor.hang = lambda: over.wait(20) if hanging.is_set() else None
    timer = threading.Timer(1.5, hanging.set)
    timer.start()
    try:
        report = work(Hasty(vendor.url), seconds=7, until_empty=False)
    finally:
        over.set()
        timer.cancel()

    lane.refresh_from_db()
    assert lane.breaker == "open"
    assert lane.openings >= 1
    assert lane.open_until is not None
    assert lane.open_until > timezone.now()
    assert 0 < report.in_doubt <= 80 * 1.5 + 20, "a second or so of the rate, and what was in flight"
    assert Letter.objects.filter(state="queued").count() > 300


def test_a_lane_after_its_rest_begins_with_one_call_and_comes_back_to_its_rate(
    make_lane: MakeLane, vendor: Vendor
) -> None:
    lane = make_lane(Letters, rate_per_second=200)
    Lane.objects.filter(pk=lane.pk).update(openings=2, breaker="half_open")
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=f"p{n}") for n in range(200))
    vendor.answer = lambda _: (200, {"id": "v"})
    began = time.monotonic()

    report = work(Letters(vendor.url))

    assert report.done == 200
    assert time.monotonic() - began < 10
    first, second = sorted(request.at for request in vendor.requests)[:2]
    assert second > first
    lane.refresh_from_db()
    assert (lane.breaker, lane.openings) == ("closed", 0)
