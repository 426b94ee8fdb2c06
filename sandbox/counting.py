"""Count exactly what arrived and what was taken: the sandbox's word is the test of our limits."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

WINDOW = 1.0


class Window:
    """The most that came within any one second, exactly: two arrivals exactly a second apart share none.

    Arrivals may be told out of order, since they are stamped before they are read; by up to a second.
    """

    __slots__ = ("_times", "_worst")

    def __init__(self) -> None:
        self._times: list[float] = []  # in order, the last few seconds
        self._worst = 0

    def add(self, at: float) -> None:
        """Count one more."""
        times = self._times
        insort(times, at)
        if times[-1] - times[0] > 4 * WINDOW:
            self._settle()
            del times[: bisect_right(times, times[-1] - 2 * WINDOW)]

    def most_with(self, at: float) -> int:
        """Return how many the fullest second has that one more at `at` would fall into."""
        times = self._times
        place = bisect_right(times, at)
        most = place - bisect_right(times, at - WINDOW)
        for later in range(place, bisect_left(times, at + WINDOW)):  # only when told out of order
            most = max(most, later + 1 - bisect_right(times, times[later] - WINDOW))
        return most

    @property
    def worst(self) -> int:
        self._settle()
        return self._worst

    def _settle(self) -> None:
        times, start = self._times, 0
        for end, at in enumerate(times):
            while times[start] <= at - WINDOW:
                start += 1
            if end - start >= self._worst:
                self._worst = end - start + 1


@dataclass(slots=True, frozen=True)
class Accepted:
    """A message that was taken. `at` is Unix time."""

    to: str
    attempt: str
    wamid: str
    template: str
    at: float

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Number:
    """What one phone number did."""

    arrivals: Window = field(default_factory=Window)
    taken: Window = field(default_factory=Window)
    arrived: int = 0
    first: float = 0.0
    last: float = 0.0
    accepted: list[Accepted] = field(default_factory=list)
    recipients: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def arrive(self, at: float) -> None:
        if not self.arrived:
            self.first = at
        self.arrived += 1
        self.last = at
        self.arrivals.add(at)

    def accept(self, message: Accepted) -> None:
        self.accepted.append(message)
        self.recipients[message.to] += 1
        if message.attempt:
            self.attempts[message.attempt] += 1

    def as_json(self) -> dict[str, Any]:
        seconds = self.last - self.first
        return {
            "arrivals": self.arrived,
            "accepted": len(self.accepted),
            "errors": dict(self.errors),
            "faults": dict(self.faults),
            "worst_second": self.arrivals.worst,
            "worst_second_accepted": self.taken.worst,
            "recipients": len(self.recipients),
            "recipients_repeated": sum(1 for count in self.recipients.values() if count > 1),
            "attempts_repeated": sum(1 for count in self.attempts.values() if count > 1),
            "seconds": round(seconds, 3),
            "per_second": round((self.arrived - 1) / seconds, 2) if seconds > 0 else 0.0,
        }
