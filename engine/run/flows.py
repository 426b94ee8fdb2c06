"""The flows of one run: what it has of each in hand, which are drained, which wait for somebody's lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from engine.run.timing import LOCKED_SECONDS


class OpenFlows:
    """Counts a run's requests by flow. Times are seconds of the loop's clock."""

    def __init__(self) -> None:
        self._in_hand: Counter[int] = Counter()
        self._tell_from: dict[int, float] = {}
        self._settle_from: dict[int, float] = {}

    def know(self, flow: int) -> None:
        """Remember that the flow had rows, even if none of them is in hand."""
        self._in_hand[flow] += 0

    def take(self, flow: int) -> None:
        self._in_hand[flow] += 1

    def settle(self, flow: int) -> None:
        self._in_hand[flow] -= 1

    def lock(self, flow: int, now: float) -> None:
        """Somebody holds what the flow's settlement needs: it waits a second."""
        self._settle_from[flow] = now + LOCKED_SECONDS

    def waits(self, flow: int, now: float) -> bool:
        return self._settle_from.get(flow, 0.0) > now

    def quiet(self, queued: Collection[int], now: float) -> list[int]:
        """List the flows that had rows and have none left, here or in the queue (`queued`)."""
        return [
            flow
            for flow, rows in self._in_hand.items()
            if rows <= 0 and flow not in queued and self._tell_from.get(flow, 0.0) <= now
        ]

    def told(self, flows: Collection[int], locked: Collection[int], now: float) -> None:
        """Forget drained flows that the application was told of; those that were locked are told again."""
        for flow in flows:
            if flow in locked:
                self._tell_from[flow] = now + LOCKED_SECONDS
            else:
                self._in_hand.pop(flow, None)
                self._tell_from.pop(flow, None)
