"""The rate of a lane: nearly all of it, never more in any sliding second, few refusals."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

import pytest

from engine.run.pacing import GROUPS, SLACK, Pacer


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
    times = sorted(times)
    return max(sum(1 for t in times[i : i + 2000] if t < at + 1.0) for i, at in enumerate(times))


@dataclass
class World:
    """A vendor that lets `limit` arrivals through in any sliding second, and a network that shifts each."""

    limit: int
    jitter: Callable[[], float]
    answer_seconds: float = 0.15
    closed: Callable[[float], bool] = lambda at: False
    stalls: list[tuple[float, float]] = field(default_factory=list)  # from, until: the process stands still
    deaths: list[tuple[float, float]] = field(
        default_factory=list
    )  # of the holder, until the next one goes on
    departed: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    let_through: list[float] = field(default_factory=list)

    def drive(self, pacer: Pacer, seconds: float) -> None:
        events: list[tuple[float, bool, float]] = []  # when, whether it is an answer, when the call left
        window: deque[float] = deque()
        now, next_recovery, born = 0.0, 1.0, 0.0
        slot, epoch = pacer.reserve(0.0), pacer.epoch
        deaths, stalls = deque(self.deaths), deque(self.stalls)
        while now < seconds:
            if deaths and deaths[0][0] <= now:
                _, born = deaths.popleft()
                rate_now, refused_rate = pacer.rate_now, pacer.refused_rate
                pacer = Pacer(
                    pacer.rate,
                    start=born,
                    rate_now=rate_now,
                    refused_rate=refused_rate,
                    grouped=pacer.grouped,
                )
                slot, epoch = pacer.reserve(born), pacer.epoch
            if pacer.epoch != epoch:
                slot, epoch = pacer.reserve(now), pacer.epoch
            now = max(now, min(slot, events[0][0] if events else slot, next_recovery))
            if next_recovery <= now:
                pacer.recover(now)
                next_recovery += 1.0
            elif events and events[0][0] <= now:
                at, is_answer, left_at = heapq.heappop(events)
                if is_answer:
                    if left_at >= born:
                        pacer.refused(left_at, at)
                    continue
                while window and window[0] <= at - 1.0:
                    window.popleft()
                if len(window) < self.limit and not self.closed(at):
                    window.append(at)
                    self.let_through.append(at)
                else:
                    self.refused.append(at)
                    heapq.heappush(events, (at + self.answer_seconds, True, left_at))
            elif (wait := pacer.too_early(now)) > 0:
                slot = now + wait
            elif stalls and stalls[0][0] <= now < stalls[0][1]:
                slot = stalls[0][1]
            else:
                while stalls and stalls[0][1] <= now:
                    stalls.popleft()
                self.departed.append(now)
                heapq.heappush(events, (now + max(0.0, self.jitter()), False, now))
                slot = pacer.reserve(now)

    def share(self, seconds: float, since: float = 0.0) -> float:
        return sum(1 for at in self.let_through if since <= at < seconds) / (seconds - since) / self.limit

    def refusals(self, since: float = 0.0) -> float:
        return sum(1 for at in self.refused if at >= since) / sum(1 for at in self.departed if at >= since)


@pytest.mark.parametrize("rate", [0.5, 1, 3, 12.5, 80, 1000])
def test_the_line_rate_is_used_and_never_passed(rate: float) -> None:
    n = max(int(rate * 5), 5)
    sent = send_many(Pacer(rate, start=100.0), n=n, start=100.0)

    assert worst_second(sent) <= max(1, int(rate))
    whole = max(int(rate), min(rate, 1))  # of 12.5 a second, only 12 fit into any one second
    assert (n - 1) / (sent[-1] - sent[0]) >= 0.985 * whole


@pytest.mark.parametrize("grouped", [False, True])
def test_late_wake_ups_do_not_pass_the_limit(grouped: bool) -> None:
    chance = random.Random(7)
    stalls = lambda: 0.03 if chance.random() < 0.05 else chance.random() * 0.002  # noqa: E731
    sent = send_many(Pacer(80, start=0.0, grouped=grouped), n=800, start=0.0, late=stalls)

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


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("n", [5, 80, 101, 137])
def test_a_lane_that_changes_hands_keeps_its_spacing(grouped: bool, n: int) -> None:
    """The second holder goes on as the first would have, whatever the first had done last."""
    first = Pacer(80, start=0.0, grouped=grouped)
    sent = send_many(first, n=n, start=0.0)
    sent += send_many(first, n=5, start=sent[-1] + 0.05)
    second = Pacer(80, start=first.free_from(sent[-1]), grouped=grouped)
    waited = second.reserve(sent[-1]) - sent[-1]
    sent += send_many(second, n=200, start=sent[-1] + waited)

    assert worst_second(sent) <= 80
    assert waited <= 2 / GROUPS, "a hand-over costs next to nothing"


JITTER = {
    "up to 15 ms": lambda: random.uniform(0.0, 0.015),
    "15 ms either way": lambda: 0.03 + random.uniform(-0.015, 0.015),
    "a tail of 15 ms": lambda: abs(random.gauss(0.0, 0.010)),
}


@pytest.mark.parametrize("jitter", JITTER.values(), ids=JITTER.keys())
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_jitter_costs_little_of_the_rate_and_few_refusals(jitter: Callable[[], float], seed: int) -> None:
    random.seed(seed)
    world = World(80, jitter)
    world.drive(Pacer(80, start=0.0), 126)

    assert worst_second(world.departed) <= 80
    assert world.share(126) >= 0.978
    assert world.refusals() <= 0.003


def test_a_limit_that_was_none_is_forgotten_within_seconds() -> None:
    """Bursts of refusals taught the pacer 7.3 of 10 a second; then the vendor takes everything again."""
    world = World(10, lambda: 0.0)
    world.drive(Pacer(10, start=0.0, rate_now=7.2, refused_rate=7.3), 30)

    assert world.share(30, since=18) >= 0.95
    assert not world.refused


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("every", "longest", "share"), [(1.0, 0.03, 0.98), (0.3, 0.02, 0.97), (2.0, 0.06, 0.98)]
)
def test_a_process_that_stands_still_now_and_then_is_not_refused_for_it(
    seed: int, every: float, longest: float, share: float
) -> None:
    """What leaves late is followed by what leaves in time: a vendor's second would hold both."""
    random.seed(seed)
    starts = accumulate(every + random.expovariate(1 / every) for _ in range(300))
    stalls = [(start, start + random.uniform(0, longest)) for start in starts]
    world = World(80, JITTER["up to 15 ms"], stalls=stalls)
    world.drive(Pacer(80, start=0.0), 60)

    assert world.share(60) >= share
    assert world.refusals() <= 0.001


@pytest.mark.parametrize("jitter", JITTER.values(), ids=JITTER.keys())
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_a_lower_limit_is_found_within_seconds_and_kept(jitter: Callable[[], float], seed: int) -> None:
    """A number set to 80 whose true limit is 40: no saw-tooth."""
    random.seed(seed)
    world = World(40, jitter)
    pacer = Pacer(80, start=0.0)
    world.drive(pacer, 60)

    assert world.share(60, since=10.0) >= 0.9
    assert world.refusals(since=10.0) <= 0.015
    assert pacer.refused_rate is not None
    assert 36 <= pacer.refused_rate <= 42


def test_a_limit_that_is_lifted_is_found_by_probing() -> None:
    world = World(80, lambda: 0.01)
    pacer = Pacer(80, start=0.0, rate_now=39.0, refused_rate=40.0)
    world.drive(pacer, 240)

    assert world.share(240, since=200.0) >= 0.97
    assert pacer.refused_rate is None


@pytest.mark.parametrize("rate", [10, 80])
def test_bursts_of_refusals_teach_no_limit_however_often_they_come(rate: int) -> None:
    """Ten minutes, each with 36 seconds in which the vendor refuses everything for 0.3 s of every 3 s.

    The soak found it: each storm left the lane at half of what the one before had left, down to 1 a second.
    """
    random.seed(rate)
    world = World(rate, JITTER["up to 15 ms"], closed=lambda at: at % 60 >= 24 and at % 3 < 0.3)
    world.drive(Pacer(rate, start=0.0), 600)

    shares = [world.share(start + 24, since=start + 8) for start in range(0, 600, 60)]
    assert min(shares) >= 0.95, f"in the calm parts: {shares}"


@pytest.mark.parametrize("answer_seconds", [1.0, 6.0])
@pytest.mark.parametrize("rate", [10, 80, 1000])
def test_a_vendor_that_is_slow_to_refuse_teaches_its_limit_too(answer_seconds: float, rate: int) -> None:
    """A refusal that is told long after its call left is judged by what left then."""
    random.seed(rate)
    world = World(rate // 2, JITTER["up to 15 ms"], answer_seconds=answer_seconds)
    pacer = Pacer(rate, start=0.0)
    world.drive(pacer, 240)

    assert world.share(240, since=180) >= 0.9
    assert pacer.refused_rate is not None


def test_a_vendor_that_takes_half_a_minute_to_refuse_breaks_nothing() -> None:
    random.seed(80)
    world = World(40, JITTER["up to 15 ms"], answer_seconds=35.0)
    world.drive(Pacer(80, start=0.0), 240)
    assert world.share(240, since=180) >= 0.9


@pytest.mark.parametrize("rate", [None, 80])
def test_refusals_of_calls_that_nobody_remembers_change_nothing(rate: float | None) -> None:
    pacer = Pacer(None, start=0.0)
    pacer.set_rate(rate, 100.0)
    for told in range(20):
        pacer.refused(90.0 + told / 100, 101.0)
    assert pacer.rate_now == rate


@pytest.mark.parametrize("rate", [10, 80])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nor_do_they_where_holders_die_meanwhile(rate: int, seed: int) -> None:
    """A lane that has just been taken has sent too little in the last second to tell a limit by."""
    random.seed(seed)
    deaths = [
        (start + at, start + at + 3.5)
        for start in range(0, 600, 60)
        for at in (24.0, 29.5, 36.0, 41.3, 47.1, 53.0)
    ]
    world = World(
        rate, JITTER["up to 15 ms"], closed=lambda at: at % 60 >= 24 and at % 3 < 0.3, deaths=deaths
    )
    world.drive(Pacer(rate, start=0.0), 600)

    shares = [world.share(start + 24, since=start + 5) for start in range(60, 600, 60)]
    assert min(shares) >= 0.95, f"in the calm parts: {shares}"


def test_a_changed_rate_holds_at_once() -> None:
    pacer = Pacer(5, start=0.0)
    send_many(pacer, n=5, start=0.0)
    epoch, far = pacer.epoch, [pacer.reserve(1.0) for _ in range(3)][-1]
    assert far > 1.1
    pacer.set_rate(80, 1.05)
    assert pacer.epoch != epoch, "slots that were reserved before are void"
    assert pacer.reserve(1.05) == 1.05
    pacer.set_rate(5, 1.1)
    sent = send_many(pacer, n=20, start=1.1)
    assert worst_second(sent) <= 5


def test_a_rate_of_a_million_costs_nothing_to_set_up() -> None:
    pacer = Pacer(1_000_000, start=0.0)
    assert pacer.__sizeof__() < 1_000
    assert len(send_many(pacer, n=1_000, start=0.0)) == 1_000


def test_a_lane_without_a_rate_does_not_wait() -> None:
    pacer = Pacer(None, start=0.0)
    assert pacer.reserve(5.0) == 5.0
    assert pacer.too_early(5.0) == 0.0


def test_even_departures_stay_a_little_under_the_rate() -> None:
    sent = send_many(Pacer(80, start=0.0), n=801, start=0.0)
    assert sent[-1] - sent[0] == pytest.approx(10 * (1 + SLACK))
