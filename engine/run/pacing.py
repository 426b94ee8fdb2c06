"""Keep one lane at its vendor's rate: nearly all of it, and never more departures in any sliding second.

The vendor counts arrivals, and a network shifts each by some milliseconds. Even departures just under the
rate then meet a refusal now and then. The pacer answers in this order:

* *Even.* Departures are spaced evenly, 1 % under the rate. Nothing is caught up on: what a late process
  missed is missed.
* *Grouped.* After the first stray refusal they leave in groups, four to a second, each at one moment:
  only what comes near the edge of the vendor's second can be miscounted, and groups have few edges: with
  15 ms of jitter at 80/s a sixth of the refusals, or fewer (docs/decisions/0011-requests-and-facts.md).
* *Giving way.* Each stray refusal, once a second at most, costs 0.9 % of the rate, which comes back within
  seven seconds: so about one call in 1,000 is refused where nothing better can be had.
* *A lower limit.* Many refusals are news: the pace falls to what was let through in any second lately. If
  each of them came with about as many let through in the second before it, and we had not paused meanwhile,
  that is the vendor's true limit: the pacer stays just under it, and probes above it slowly. Otherwise it
  says nothing of limits (a vendor that refuses everything for a moment, a lane that has just been taken), and
  the pace is back within seconds.

Whatever the event loop does, the guard counts departures: with n allowed, the n-th last is a little over a
second old.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from math import ceil, inf
from statistics import median

SLACK = 0.01
"""How much longer than a second is what counts as one."""
GROUPS = 4
"""Groups in a second: a group is what may be marked as leaving at a time."""
GUARD, GUARD_GROUPED = 0.008, 0.015
"""How much longer than a second the guard counts, so that jitter brings no more than is allowed into one of
the vendor's, however late a departure was."""
GIVE_WAY = 0.991
COME_BACK = 0.0013
"""Of the rate, in a second, after giving way."""
FAR, FROM_FAR, FAR_AFTER, BACK_STEP = 0.03, 0.5, 2.5, 0.1
"""Further below than this strays do not keep it: half of the rest comes back in a second, once a pace that
was learnt has been kept for so many seconds."""
NEWS_SECONDS, NEWS_SHARE, NEWS_FEWEST = 3.0, 0.02, 4
"""Refusals of so many seconds are news from this share, and this number, on."""
BURST, BURST_SECONDS, BURST_FAR, EDGE = 8, 0.5, 3, 0.8
"""So are so many at once, or so many that came while fewer than this part of a second's calls had left."""
UNDER = 0.98
"""How far under a limit that refused many the pacer comes back to."""
PROBE_STEP, PROBE_EVERY, PROBE_SELDOM = 1.02, 3.0, 30.0
"""After so many quiet seconds the remembered limit is tried 2 % higher; each time in vain, half as often. At
its most seldom a probe costs two calls in a thousand."""
LONGEST_ANSWER = 30.0
"""Departures are remembered for as long as a refusal takes, up to so many seconds."""
TOGETHER = 0.03
"""Calls that leave within so many seconds may arrive in any order."""
PAUSE, LIKE_A_LIMIT = 0.5, 0.9
"""Refusals tell a limit only after a second in which we never paused for so many seconds, and if they came
with this part of the most, or more, let through in the second before each."""
MOST_STEP = 1.2
"""Each probe that nobody refuses makes the next step as large again: what a burst taught was no limit."""


class Pacer:
    """Slots for one lane. Times are seconds of one monotonic clock, given by the caller.

    `rate` is per second, None for no limit. `start` is the first moment a call may leave: the last holder of
    the lane went on at the same pace up to it. `epoch` changes when slots reserved before are void.
    """

    __slots__ = (
        "_at",
        "_back_step",
        "_came_back_at",
        "_departed",
        "_far",
        "_gave_way_at",
        "_grouped_at",
        "_in_vain",
        "_learnt_at",
        "_left",
        "_next",
        "_probe_every",
        "_probe_step",
        "_probed_at",
        "_probed_by",
        "_probing",
        "_refusals",
        "_refused",
        "_told_after",
        "_turn",
        "epoch",
        "grouped",
        "rate",
        "rate_now",
        "refused_rate",
    )

    def __init__(
        self,
        rate: float | None,
        *,
        start: float,
        rate_now: float | None = None,
        refused_rate: float | None = None,
        grouped: bool = False,
    ) -> None:
        self.rate = rate
        self.rate_now = min(rate_now or rate, rate) if rate else None
        self.refused_rate = refused_rate if rate and refused_rate and refused_rate < rate else None
        self.grouped = grouped
        self.epoch = 0
        self._next = self._at = start
        self._left = self._turn = 0  # how many may still leave at `_at`, which of the second's groups that is
        self._departed: deque[float] = deque()
        self._refusals: deque[float] = deque()  # told at, since the last lesson
        self._refused: deque[float] = deque()  # left at
        self._far: deque[float] = deque()  # told at, of those that jitter does not explain
        self._told_after = 0.0  # how long the slowest refusal took
        self._back_step = BACK_STEP
        self._gave_way_at = self._learnt_at = self._grouped_at = start - 60.0
        self._came_back_at = self._probed_at = start
        self._probe_every = PROBE_EVERY
        self._probe_step = self._probed_by = PROBE_STEP  # the next step, and the last one
        self._probing = False  # the last step was not refused
        self._in_vain = 0.0  # the limit of the last step that was

    # -- slots -----------------------------------------------------------------------------
    def reserve(self, now: float) -> float:
        """Take the next slot and say when it is."""
        if self.rate_now is None:
            return now
        if self._left <= 0:
            self._at = max(self._next, now)
            second = (1 + SLACK) / self.rate_now
            if self.grouped and now >= self._grouped_at:
                self._turn = (self._turn + 1) % GROUPS
                self._left = max(1, (self._in_second + self._turn) // GROUPS)
                self._next = self._at + self._in_second * second / GROUPS
            else:
                self._left = 1
                self._next = self._at + second
        self._left -= 1
        return max(self._at, now)

    def too_early(self, now: float) -> float:
        """Say how many seconds a call at `now` must still wait; at 0 it is counted as leaving."""
        if self.rate_now is None:
            return 0.0
        departed, span, allowed = self._departed, self._span, self._allowed
        while departed and departed[0] <= now - max(span, NEWS_SECONDS + 1.0 + self._told_after):
            departed.popleft()
        if len(departed) >= allowed and (wait := departed[-allowed] + span - now) > 0:
            return wait + 1e-4
        departed.append(now)
        return 0.0

    @property
    def _allowed(self) -> int:
        """Departures in any sliding second."""
        return max(1, int(self.refused_rate or self.rate or 1.0))

    @property
    def _in_second(self) -> int:
        """Departures that a second's groups make up: what is allowed; far below that, what the pace gives."""
        allowed, pace = self._allowed, self.rate_now or inf
        return allowed if pace >= EDGE * allowed else max(GROUPS, int(pace))

    @property
    def _span(self) -> float:
        """The sliding second; longer for rates below one."""
        guard = GUARD_GROUPED if self.grouped else GUARD
        return (1.0 + guard) / min(self.rate_now or 1.0, 1.0)

    # -- what the vendor says --------------------------------------------------------------
    def refused(self, left_at: float, now: float) -> None:
        """Note that the vendor refused a call that left at `left_at` as one too many."""
        self._told_after = min(max(self._told_after, now - left_at), LONGEST_ANSWER)
        if self.rate_now is None or self.rate is None or not self._remembers(left_at):
            return
        self._refused.append(left_at)
        if left_at < self._learnt_at:
            return  # on its way already when a lower limit was learnt
        refusals = self._refusals
        refusals.append(now)
        while refusals[0] < now - NEWS_SECONDS:
            refusals.popleft()
        at_edge = self._at_edge(left_at)
        if not at_edge:
            self._far.append(now)
        while self._far and self._far[0] < now - BURST_SECONDS:
            self._far.popleft()
        settled = now - self._grouped_at > NEWS_SECONDS if self.grouped else not self._can_group
        share = NEWS_SHARE if settled else 4 * NEWS_SHARE
        many = len(refusals) >= max(NEWS_FEWEST, share * self.rate_now * NEWS_SECONDS)
        burst = len(refusals) >= BURST and now - refusals[-BURST] < BURST_SECONDS
        if many or burst or len(self._far) >= BURST_FAR:
            self._learn_limit(now)
        elif left_at < self._gave_way_at:
            return
        elif self._probing and now - self._probed_at < self._probe_every:
            self._probe_in_vain(now)
        elif self._can_group and not self.grouped:
            # jitter does not explain it: others may be refused as well, and no whole group should be
            self.grouped, self._grouped_at = True, now if at_edge else now + BURST_SECONDS
            self._give_way(self.rate_now, now)
            self.epoch += 1
        elif now - self._gave_way_at >= 1.0:
            if self.refused_rate is not None:
                self.refused_rate /= PROBE_STEP
            self._give_way(min(self.rate_now, (self.refused_rate or inf) * UNDER) * GIVE_WAY, now)

    def _remembers(self, left_at: float) -> bool:
        """Say whether departures are known as far back; forget refusals of those that are not."""
        if not self._departed:
            return False
        while self._refused and self._refused[0] < self._departed[0]:
            self._refused.popleft()
        return left_at >= self._departed[0]

    def _at_edge(self, left_at: float) -> bool:
        """Say whether about as many had left in the second before as may: only there is jitter at fault."""
        before = sum(1 for at in self._departed if left_at - 1.0 < at <= left_at)
        return before >= EDGE * min(self._allowed, self.rate_now or inf)

    @property
    def _can_group(self) -> bool:
        return self.rate is not None and self.rate >= 2 * GROUPS

    def _give_way(self, rate: float, now: float) -> None:
        assert self.rate is not None
        self.rate_now = max(rate, min(self.rate, 1.0))
        self._gave_way_at = self._came_back_at = now

    def _learn_limit(self, now: float) -> None:
        """Come back to just under what was let through in a second; remember it where it must be a limit."""
        assert self.rate is not None
        assert self.rate_now is not None
        before = self.rate_now
        self._refusals.clear()
        self._far.clear()
        through, at_refusals = self._let_through()
        steady, is_limit = self._steady(), at_refusals >= LIKE_A_LIMIT * through
        if steady and not is_limit:  # for a moment everything was refused
            if now - self._gave_way_at >= 1.0:
                self._give_way(before * GIVE_WAY, now)
            return
        limit = max(float(through), before / 2)  # half at the least, and then once more
        if steady and through >= before / 2:
            self.refused_rate = limit if limit < self.rate else None
            self._probed_at, self._probe_every, self._probe_step = now, PROBE_EVERY, PROBE_STEP
            self._probing, self._in_vain = False, 0.0
        self._give_way(min(limit * UNDER, before * GIVE_WAY), now)
        self._learnt_at, self._back_step = now, BACK_STEP
        if self.rate_now < 0.9 * before:
            self.grouped = False  # even departures find a limit with fewer refusals
            self._left, self._next = 0, max(self._next, now + 1.0)  # the vendor's second empties meanwhile
            self.epoch += 1

    def _let_through(self) -> tuple[int, float]:
        """Count the most calls that the vendor let through in any one second lately, and in the second before
        each refusal since the last lesson (the median).

        Of calls that left when the last one known to be refused did, or later, nobody knows yet.
        """
        refused, last, first = self._refused, self._refused[-1], self._departed[0]
        gone = Counter(refused)
        through: list[float] = []
        for at in self._departed:
            if at > last - TOGETHER:
                break
            if gone[at]:
                gone[at] -= 1
            else:
                through.append(at)

        def in_second(until: float) -> int:
            return bisect_right(through, until) - bisect_right(through, until - 1.0 + TOGETHER)

        most = max(map(in_second, through), default=0)
        lately = [in_second(at + TOGETHER) for at in refused if at >= max(self._learnt_at, first + 1.0)]
        return most, median(lately) if lately else 0.0

    def _steady(self) -> bool:
        """Say whether calls left without a pause in the second before the last refusal."""
        assert self.rate_now is not None
        apart = (self._in_second / GROUPS if self.grouped else 1) / self.rate_now
        longest, until = max(PAUSE, 2 * apart), self._refused[-1]
        later = until
        for at in reversed(self._departed):
            if at <= until:
                if later - at > longest:
                    return False
                if at <= until - 1.0:
                    return True
                later = at
        return False

    def _probe_in_vain(self, now: float) -> None:
        """Go back to the limit that was remembered before the probe, and probe less often."""
        tried = self.refused_rate or self.rate or 1.0
        self._probing, self._in_vain = False, tried
        self.refused_rate = tried / self._probed_by
        self._probe_step = self._probed_by = PROBE_STEP
        self._probe_every = min(2 * self._probe_every, PROBE_SELDOM)
        self._give_way(self.refused_rate * UNDER, now)
        self._probed_at = now - 1.0  # another refusal in the same second says nothing new

    def recover(self, now: float) -> None:
        """Come back towards the full rate, or the limit that is remembered; called about once a second."""
        if self.rate is None or self.rate_now is None:
            return
        if (
            self.refused_rate is not None
            and now - max(self._probed_at, self._gave_way_at) >= self._probe_every
        ):
            if self._probing and self.refused_rate > self._in_vain:
                self._probe_every = PROBE_EVERY  # higher than what was refused: the limit has moved
            self._probed_at, self._probing = now, True
            tried = self.refused_rate * self._probe_step
            self._probed_by, self._probe_step = self._probe_step, min(self._probe_step**2, MOST_STEP)
            self.refused_rate = tried if tried < self.rate else None
            self.rate_now = max(self.rate_now, (self.refused_rate or self.rate) * UNDER)
        most = self.rate if self.refused_rate is None else self.refused_rate * UNDER
        seconds = max(0.0, now - self._came_back_at)
        far = 0.0
        if now - self._learnt_at >= FAR_AFTER:
            rest = max(0.0, most * (1 - FAR) - self.rate_now)
            far = min(rest * FROM_FAR, self.rate_now * self._back_step)
            self._back_step = min(2 * self._back_step, 1.0)
        step = self.rate * COME_BACK * seconds + far * min(1.0, seconds)
        self.rate_now = max(self.rate_now, min(most, self.rate_now + step))
        self._came_back_at = now

    # -- what people say -------------------------------------------------------------------
    def set_rate(self, rate: float | None, now: float) -> None:
        """Go at another rate from now on; what was learnt of the old one says nothing about it."""
        if rate == self.rate:
            return
        self.rate = self.rate_now = rate
        self.refused_rate = None
        self._probing = False
        self._left = 0
        self._next = now
        self._refusals.clear()
        self._refused.clear()
        self._far.clear()
        self.epoch += 1

    # -- handing over ----------------------------------------------------------------------
    def free_from(self, now: float) -> float:
        """Say from when another pacer may go on in the same way as if it were this one."""
        if self.rate_now is None:
            return now
        start = max(self._next, now)
        allowed, second = self._allowed, (1 + SLACK) / self.rate_now
        group = ceil(allowed / GROUPS) if self.grouped else 1
        for place, at in enumerate(reversed(self._departed), start=1):
            gone = at + self._span  # by then the other may have made this many calls
            while place + group * ceil(max(gone - start, 0.0) / (group * second)) > allowed and start < gone:
                start += second
        return start
