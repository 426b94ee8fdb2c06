"""Keep one lane at its vendor's rate: all of it, and never more in any sliding second.

Sends are spaced evenly, since a bucket that starts full sends double in its first second. And whatever the
event loop does, the n-th send waits until the n-th before it is a little over a second old.

The vendor counts on arrival, not on departure. The slack is what a request may be delayed more than the
one a second before it without the vendor seeing one too many. It starts small, and grows when the vendor
says that it saw too many after all. It also covers how late this process lately woke for its slots: on a
busy machine requests leave just as late. A request that had to open its connection may be delayed far
longer: it counts from its answer (`arrived_by`).
"""

from __future__ import annotations

from bisect import insort

SLACK = 0.003
MOST_SLACK = 0.05
RECOVERY_SECONDS = 30.0
"""How long a rate takes to grow back from nothing to the full rate, a little each second."""


class Pacer:
    """Slots for one lane. Times are seconds of one monotonic clock, given by the caller.

    `rate` is per second, None for no limit. `start` is the first moment a send may leave; the second
    before it counts as fully used, so that a lane that changes hands keeps its spacing.
    """

    __slots__ = (
        "_limit",
        "_next",
        "_recent",
        "_recovered_at",
        "_slowed_at",
        "lag",
        "rate",
        "rate_now",
        "slack",
    )

    def __init__(self, rate: float | None, *, start: float, rate_now: float | None = None) -> None:
        self.rate = rate
        self.rate_now = min(rate_now or rate, rate) if rate else None
        self.slack = SLACK
        self.lag = 0.0
        self._next = start
        self._recovered_at = start
        self._slowed_at = start - 1.0
        self._limit = max(1, int(rate)) if rate else 0
        interval = (1 + self.slack) / max(rate or 1.0, 1.0)
        self._recent = [start - interval * k for k in range(self._limit, 0, -1)]  # sorted

    def reserve(self, now: float) -> float:
        """Take the next slot and say when it is."""
        if self.rate_now is None:
            return now
        slot = max(self._next, now)
        self._next = slot + self._second / self.rate_now
        return slot

    def too_early(self, now: float) -> float:
        """Say how many seconds a send at `now` must still wait; at 0 it is counted as sent."""
        if self.rate_now is None:
            return 0.0
        wait = self._recent[0] + self._span - now
        if wait > 0:
            return wait
        del self._recent[0]
        insort(self._recent, now)
        return 0.0

    def arrived_by(self, sent: float, now: float) -> None:
        """Count a send from `now`, its answer, instead of from `sent`: nobody knows when it arrived."""
        if sent in self._recent:
            self._recent.remove(sent)
            insort(self._recent, now)

    def woke_late(self, seconds: float) -> None:
        """Note how much later than asked a caller woke; the worst is forgotten over some hundred slots."""
        self.lag = min(max(seconds, self.lag * 0.99), MOST_SLACK)

    def slow_down(self, now: float) -> None:
        """Halve the rate: the vendor said that it was too much. Once a second at most, since what was in
        flight together is refused together."""
        if self.rate_now is not None and self.rate is not None and now - self._slowed_at >= 1.0:
            self.recover(now)
            self._slowed_at = now
            self.slack = min(self.slack + SLACK, MOST_SLACK)
            self.rate_now = max(self.rate_now / 2, min(self.rate, 1.0))

    def recover(self, now: float) -> None:
        """Grow back towards the full rate, in proportion to the time since the last call of this."""
        if self.rate is not None and self.rate_now is not None and self.rate_now < self.rate:
            grown = self.rate * (now - self._recovered_at) / RECOVERY_SECONDS
            self.rate_now = min(self.rate, self.rate_now + max(0.0, grown))
        self._recovered_at = now

    def free_from(self, now: float) -> float:
        """Say from when another pacer may take over as if it had sent evenly up to then."""
        if self.rate is None:
            return now
        interval = self._second / max(self.rate, 1.0)
        sent = enumerate(reversed(self._recent), start=1)
        return max(now, self._next, *(at + interval * k for k, at in sent))

    @property
    def _span(self) -> float:
        """The sliding second; longer for rates below one."""
        return self._second / min(self.rate or 1.0, 1.0)

    @property
    def _second(self) -> float:
        """What counts as a second, with all that may come between two requests."""
        return 1 + self.slack + self.lag
