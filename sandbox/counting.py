"""Count exactly what arrived and what was taken: the sandbox's word is the test of our limits."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

WINDOW = 1.0


@dataclass(slots=True)
class Window:
    """The most that came within any one second, exactly: two arrivals exactly a second apart share none."""

    worst: int = 0
    _times: deque[float] = field(default_factory=deque)

    def add(self, at: float) -> int:
        """Count one more and return how many came within the second that ends with it."""
        times = self._times
        times.append(at)
        now = self.within(at)
        if now > self.worst:
            self.worst = now
        return now

    def within(self, at: float) -> int:
        """Return how many came within the second before `at`."""
        times = self._times
        oldest = at - WINDOW
        while times and times[0] <= oldest:
            times.popleft()
        return len(times)


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
