"""The rate of a lane: all of it, and never more in any sliding second."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from engine.run.pacing import MOST_SLACK, RECOVERY_SECONDS, SLACK, Pacer


def send_many(pacer: Pacer, *, n: int, start: float, late: Callable[[], float] = lambda: 0.0) -> list[float]:
    """Drive a pacer by a clock of our own; `late` says how late each wake-up is."""
    now, sent = start, []
    for _ in range(n):
        now = max(now, pacer.reserve(now)) + late()
        while (wait := pacer.too_early(now)) > 0:
            now += wait
        sent.append(now)
    return sent


def worst_second(times: list[float]) -> int:
    return max(sum(1 for t in times if at <= t < at + 1.0) for at in times)


@pytest.mark.parametrize("rate", [0.5, 1, 3, 12.5, 80, 1000])
def test_the_line_rate_is_used_up_and_never_passed(rate: float) -> None:
    n = max(int(rate * 5), 5)
    sent = send_many(Pacer(rate, start=100.0), n=n, start=100.0)

    assert worst_second(sent) <= max(1, int(rate))
    whole = max(int(rate), min(rate, 1))  # of 12.5 a second, only 12 fit into any one second
    assert (n - 1) / (sent[-1] - sent[0]) >= 0.99 * whole


def test_late_wake_ups_do_not_pass_the_limit() -> None:
    chance = random.Random(7)
    stalls = lambda: 0.03 if chance.random() < 0.05 else chance.random() * 0.002  # noqa: E731
    sent = send_many(Pacer(80, start=0.0), n=800, start=0.0, late=stalls)

    assert worst_second(sent) <= 80


def test_many_that_wait_at_once_leave_one_by_one_after_a_stall() -> None:
    """Twenty callers hold their slots when the process stands still for a second."""
    pacer = Pacer(80, start=0.0)
    slots = [pacer.reserve(0.0) for _ in range(20)]
    assert slots == sorted(slots)
    late = [max(slot, 1.0) for slot in slots]
    assert all(pacer.too_early(at) == 0.0 for at in late)
    after = send_many(pacer, n=160, start=1.0)
    assert worst_second(late + after) <= 80


def test_a_long_pause_is_not_followed_by_a_burst() -> None:
    pacer = Pacer(80, start=0.0)
    before = send_many(pacer, n=80, start=0.0)
    after = send_many(pacer, n=160, start=before[-1] + 5.0)

    assert sum(1 for t in after if t < after[0] + 0.01) == 1
    assert worst_second(before + after) <= 80


def test_a_lane_that_changes_hands_keeps_its_spacing() -> None:
    """The second holder starts as if the first had gone on, whatever the first had caught up on."""
    first = Pacer(80, start=0.0)
    sent = send_many(first, n=100, start=0.0, late=lambda: 0.0)
    sent += send_many(first, n=5, start=sent[-1] + 0.05)  # a small burst at the end
    second = Pacer(80, start=first.free_from(sent[-1]))
    sent += send_many(second, n=200, start=sent[-1])

    assert worst_second(sent) <= 80


def test_throttling_halves_the_rate_and_it_grows_back_a_little_each_second() -> None:
    pacer = Pacer(80, start=0.0)
    pacer.slow_down(0.0)
    pacer.slow_down(0.5)
    assert pacer.rate_now == 40, "what was in flight together is refused together, and counts once"
    pacer.recover(8.0)
    assert pacer.rate_now == pytest.approx(40 + 8 * 80 / RECOVERY_SECONDS)
    pacer.slow_down(8.0)
    assert pacer.rate_now == pytest.approx((40 + 8 * 80 / RECOVERY_SECONDS) / 2)
    pacer.recover(1000.0)
    assert pacer.rate_now == 80


def test_a_lane_without_a_rate_does_not_wait() -> None:
    pacer = Pacer(None, start=0.0)
    assert pacer.reserve(5.0) == 5.0
    assert pacer.too_early(5.0) == 0.0


def test_the_slack_leaves_room_for_a_request_that_is_held_up_on_its_way() -> None:
    chance = random.Random(11)
    sent = send_many(Pacer(80, start=0.0), n=800, start=0.0)
    arrived = sorted(t + chance.random() * SLACK * 0.99 for t in sent)
    assert worst_second(arrived) <= 80


def test_each_refusal_widens_the_slack_up_to_a_limit() -> None:
    pacer = Pacer(80, start=0.0)
    for second in range(30):
        pacer.slow_down(float(second))
    assert pacer.slack == MOST_SLACK
    pacer.recover(1000.0)
    sent = send_many(pacer, n=400, start=1000.0)
    assert 0.94 * 80 <= 399 / (sent[-1] - sent[0]) <= 0.96 * 80


def test_a_send_that_opened_its_connection_counts_from_its_answer() -> None:
    pacer = Pacer(2, start=0.0)
    assert pacer.too_early(1.1) == 0.0
    pacer.arrived_by(1.1, 1.4)
    assert pacer.too_early(1.6) == 0.0

    assert pacer.too_early(2.2) == pytest.approx(1.4 + 1 + SLACK - 2.2)


def test_a_process_that_wakes_late_keeps_more_distance_and_forgets_it() -> None:
    pacer = Pacer(80, start=0.0)
    pacer.woke_late(0.03)
    busy = send_many(pacer, n=160, start=0.0)
    assert 159 / (busy[-1] - busy[0]) <= 80 / 1.025
    for _ in range(1000):
        pacer.woke_late(0.0)
    calm = send_many(pacer, n=160, start=10.0)
    assert 159 / (calm[-1] - calm[0]) >= 0.99 * 80
