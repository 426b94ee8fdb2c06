"""Rest a lane whose vendor cannot be reached, and let one call out at a time to see.

A vendor that refuses connections costs attempts, one that hangs costs doubt: so the first sign of silence
stops departures, ten broken calls in a row end them, the rests grow, and after each one call goes out, then
two, then four, as long as they are answered. One call that nobody answers is enough to rest again. Of one
that breaks at once (a reset, a 500) nobody knows: it takes two in a row, or as many as may be under way.
"""

from __future__ import annotations

BREAKS_AFTER = 10
"""Calls in a row that never reached the vendor, or found it broken."""
RESTS = (5.0, 5.0, 15.0, 60.0, 240.0, 900.0)
"""Seconds, one rest after the other; the last goes on. One that hangs for an hour is asked nine times."""
FEWEST_PATIENCE, PATIENCE = 1.0, 6.0
"""Silence is no answer at all for so many seconds, and for so many times what an answer takes."""


class Breaker:
    """What one lane's calls say of its vendor. Times are seconds of the loop's clock.

    `at_once` is how many calls may be under way, None for no limit of the breaker's. `openings` counts the
    rests in a row; it is kept in the lane's row, so the next holder goes on from there.
    """

    __slots__ = (
        "_broken",
        "_heard_at",
        "_in_flight",
        "_opened_at",
        "answer_seconds",
        "at_once",
        "openings",
    )

    def __init__(self, openings: int) -> None:
        self.openings = openings
        self.at_once: int | None = 1 if openings else None
        self.answer_seconds = 0.5
        self._broken = 0
        self._heard_at = self._opened_at = 0.0
        self._in_flight: dict[int, float] = {}  # a call's number: when it left; oldest first

    def left(self, number: int, now: float) -> None:
        """A call is on its way."""
        self._in_flight[number] = now

    def silent(self, now: float) -> bool:
        """Say whether the vendor has not answered anything for suspiciously long."""
        if not self._in_flight:
            return False
        since = max(next(iter(self._in_flight.values())), self._heard_at)
        return now - since > self._patience

    @property
    def _patience(self) -> float:
        return max(FEWEST_PATIENCE, PATIENCE * self.answer_seconds)

    @property
    def full(self) -> bool:
        return self.at_once is not None and len(self._in_flight) >= self.at_once

    def answered(self, number: int, now: float, elapsed: float, most: int) -> None:
        """The vendor is there. Twice as many at once, until `most` are."""
        self._in_flight.pop(number, None)
        self._heard_at = now
        self._broken = 0
        self.answer_seconds += (elapsed - self.answer_seconds) * (
            0.5 if elapsed > self.answer_seconds else 0.05
        )
        if self.at_once is not None:
            self.at_once *= 2
            if self.at_once >= most:
                self.at_once, self.openings = None, 0

    def broke(self, number: int, now: float) -> float | None:
        """A call never reached the vendor, or found it broken. Returns how long to rest now, if at all."""
        left_at = self._in_flight.pop(number, now)
        if left_at < self._opened_at:
            return None  # on its way already when we began to rest
        self._broken += 1
        hung = now - left_at > self._patience
        at_once = self.at_once or BREAKS_AFTER
        if self._broken < min(max(at_once, 1 if hung else 2), BREAKS_AFTER):
            return None
        rest = RESTS[min(self.openings, len(RESTS) - 1)]
        self._broken = 0
        self._opened_at = now
        self.openings = min(self.openings + 1, 30)
        self.at_once = 1
        return rest
