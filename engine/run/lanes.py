"""One lane in a runner's hands: what is planned, what may leave, and whether anything may."""

from __future__ import annotations

from collections import deque
from math import ceil

from engine.processor.contract import Item, LaneFacts, Planned
from engine.run.pacing import Pacer
from engine.store.leases import Leased

SLICE_SECONDS = 0.25
"""How far ahead of their requests rows are committed as `sending`: what a crash can leave in doubt."""

CALLERS = 10
"""Calls at once on a lane without a rate."""
MOST_CALLERS = 200
SAFETY = 0.25
"""The part of a lease that a holder which cannot renew leaves unused."""

BREAKER_AFTER = 10
"""Calls in a row that never reached the vendor, or found it broken, before the lane rests."""
BREAKER_SECONDS = 15.0


class LaneDriver:
    """A leased lane. Times are of the event loop's clock, in seconds."""

    def __init__(self, leased: Leased, *, now: float) -> None:
        self.facts = LaneFacts(leased.id, leased.tenant_id, leased.token_id, leased.name)
        self.id = leased.id
        self.token_id = leased.token_id
        self.pacer = Pacer(leased.rate, start=now + leased.paced_in, rate_now=leased.rate_now)
        self.max_in_flight = leased.max_in_flight
        self.has_allowance = leased.allowance is not None
        self.reserved = 0
        self.flows: deque[int] = deque()
        self.planned: deque[Planned] = deque()
        self.ready: deque[Planned] = deque()
        self.callers = 0
        self.waiting = 0
        self.unsettled = 0
        self.made = 0
        self.broken_in_a_row = 0
        self.blocked_until = 0.0
        self.busy_at = now
        self.stopped = ""
        self._per_second: float | None = None
        self._made_before = 0
        self.safe_until = now

    # -- the lease -----------------------------------------------------------------------
    def extend(self, now: float, lease_seconds: float) -> None:
        """Go on until shortly before the lease ends, which was asked for at `now`."""
        self.safe_until = now + lease_seconds * (1 - SAFETY)

    def may_call(self, now: float) -> bool:
        return not self.stopped and now < self.safe_until and now >= self.blocked_until

    def stop(self, why: str) -> None:
        """Let nothing more leave; the runner gives the rest back and releases the lane."""
        self.stopped = self.stopped or why

    def block(self, until: float) -> None:
        self.blocked_until = max(self.blocked_until, until)

    # -- how much --------------------------------------------------------------------------
    @property
    def per_second(self) -> float | None:
        """Calls a second that the lane can make: its rate, else what it has lately done."""
        return self.pacer.rate_now if self.pacer.rate_now is not None else self._per_second

    @property
    def most_callers(self) -> int:
        if self.max_in_flight:
            return self.max_in_flight
        if self.pacer.rate_now is None:
            return CALLERS
        return min(max(CALLERS, ceil(2 * self.pacer.rate_now)), MOST_CALLERS)

    @property
    def slice(self) -> int:
        """Calls that may be marked as leaving but not have left."""
        if self.pacer.rate_now is not None:
            return max(1, ceil(self.pacer.rate_now * SLICE_SECONDS))
        return max(self.most_callers, ceil((self._per_second or 0.0) * SLICE_SECONDS))

    @property
    def in_hand(self) -> int:
        return sum(len(planned.items) for planned in self.planned)

    @property
    def idle(self) -> bool:
        return not (self.planned or self.ready or self.callers)

    def measure(self, seconds: float) -> None:
        """Note how fast calls were made since the last time, smoothed."""
        latest = (self.made - self._made_before) / seconds
        self._per_second = latest if self._per_second is None else (self._per_second + latest) / 2
        self._made_before = self.made

    # -- fair shares -----------------------------------------------------------------------
    def share_out(self, rows: int) -> list[tuple[int, int]]:
        """Split `rows` evenly among the flows, whose turn moves on: [(flow, rows)]."""
        if not self.flows or rows <= 0:
            return []
        turns = min(rows, len(self.flows))
        shares = [(self.flows[i], rows // turns + (i < rows % turns)) for i in range(turns)]
        self.flows.rotate(-turns)
        return shares

    def offer(self, due: list[int]) -> None:
        """Set the flows that have rows due, keeping whose turn it is."""
        going_on = [flow for flow in self.flows if flow in due]
        self.flows = deque([*going_on, *(flow for flow in due if flow not in going_on)])

    def drop_flow(self, flow: int) -> list[Item]:
        """Take a flow out of the lane's hands; returns its rows that were not marked yet."""
        if flow in self.flows:
            self.flows.remove(flow)
        kept, dropped = deque[Planned](), list[Item]()
        for planned in self.planned:
            if any(item.flow == flow for item in planned.items):
                dropped.extend(planned.items)
            else:
                kept.append(planned)
        self.planned = kept
        return dropped

    def empty_hands(self) -> list[Item]:
        """Take out everything that has not left."""
        items = [item for planned in (*self.planned, *self.ready) for item in planned.items]
        self.planned.clear()
        self.ready.clear()
        return items
