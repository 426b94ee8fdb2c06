"""One lane in a runner's hands: what is planned, what may leave, and whether anything may."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextvars import copy_context
from dataclasses import dataclass
from math import ceil

from structlog.contextvars import bind_contextvars

from engine.processor.contract import LaneFacts, Request
from engine.run.breaker import Breaker
from engine.run.pacing import Pacer
from engine.store.allowances import Held
from engine.store.leases import LaneRow, Leased, Pace
from providers.base import ONE_CALL, Call

SLICE_SECONDS = 0.25
"""How far ahead of their calls requests are committed as `sending`: what a crash can leave in doubt."""

CALLERS = 10
"""Calls at once on a lane without a rate."""
MOST_CALLERS = 200
LONGEST_PACED = 86_400.0
"""A lane's next slot is handed over up to so many seconds ahead: a tiny rate's lies beyond any date."""
SAFETY = 0.25
"""The part of a lease that a holder which cannot renew leaves unused."""


@dataclass(slots=True, eq=False)
class Planned:
    """A request and the call that it needs next."""

    request: Request
    call: Call


class LaneDriver:
    """A leased lane. Times are of the event loop's clock, in seconds.

    A request on it is in one place only: planned (claimed, may go back), ready (committed as `sending`, not
    left), in a caller's hands, or among the outcomes that wait to be settled.
    """

    def __init__(self, leased: Leased, facts: LaneFacts, *, now: float) -> None:
        row = leased.row
        self.id = row.id
        self.token_id = row.token_id
        self.facts = facts
        self.max_in_flight = row.max_in_flight
        self.units = row.units
        self.pacer = Pacer(
            row.rate,
            start=now + leased.paced_in,
            rate_now=leased.rate_now,
            refused_rate=leased.refused_rate,
            grouped=leased.grouped,
        )
        self.breaker = Breaker(leased.openings)
        self.flows: deque[int] = deque()
        self.ranks: dict[int, int] = {}
        self.planned: dict[int, deque[Planned]] = {}  # by rank
        self.ready: deque[Planned] = deque()
        self.free: dict[str, int] = {}  # reserved of each unit, and not meant for a ready call
        self.held: dict[str, int] = {}  # all that is reserved and not written as spent
        self.context = copy_context()  # its callers' log lines name the lane
        self.context.run(bind_contextvars, lane=facts.name, tenant=facts.tenant_id)
        self.callers = 0
        self.waiting = 0
        self.unsettled = 0
        self.made = 0
        self.blocked_until = 0.0
        self.busy_at = now
        self.stopped = ""
        self.safe_until = now
        self._per_second: float | None = None
        self._made_before = 0

    # -- the lease -----------------------------------------------------------------------
    def extend(self, now: float, lease_seconds: float) -> None:
        """Go on until shortly before the lease ends, which was asked for at `now`."""
        self.safe_until = now + lease_seconds * (1 - SAFETY)

    def read(self, row: LaneRow, facts: LaneFacts, now: float) -> None:
        """Follow what people changed: the rate, the token, a pause."""
        self.facts, self.units, self.max_in_flight = facts, row.units, row.max_in_flight
        self.pacer.set_rate(row.rate, now)
        if row.stopped:
            self.stop(row.stopped)

    def may_call(self, now: float) -> bool:
        return not self.stopped and now < self.safe_until and now >= self.blocked_until

    def stop(self, why: str) -> None:
        """Let nothing more leave; the runner gives the rest back and releases the lane."""
        self.stopped = self.stopped or why

    def block(self, until: float) -> None:
        self.blocked_until = max(self.blocked_until, until)

    def pace(self, now: float) -> Pace:
        """Say what the next holder needs to go on in the same way."""
        pacer = self.pacer
        paced_in = min(pacer.free_from(now) - now, LONGEST_PACED)
        return Pace(pacer.rate_now, pacer.refused_rate, pacer.grouped, self.breaker.openings, paced_in)

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
        if self.breaker.at_once is not None:
            return self.breaker.at_once
        if self.pacer.rate_now is not None:
            return max(1, ceil(self.pacer.rate_now * SLICE_SECONDS))
        return max(self.most_callers, ceil((self._per_second or 0.0) * SLICE_SECONDS))

    @property
    def idle(self) -> bool:
        return not (self.in_hand or self.ready or self.callers)

    def measure(self, seconds: float) -> None:
        """Note how fast calls were made since the last time, smoothed."""
        latest = (self.made - self._made_before) / seconds
        self._per_second = latest if self._per_second is None else (self._per_second + latest) / 2
        self._made_before = self.made

    # -- what is planned, lower ranks first ----------------------------------------------------
    @property
    def in_hand(self) -> int:
        return sum(map(len, self.planned.values()))

    def plan(self, planned: Planned) -> None:
        self.planned.setdefault(planned.request.rank, deque()).append(planned)

    def take(self, most: int) -> list[Planned]:
        """Take the next calls that are to leave."""
        taken: list[Planned] = []
        for rank in sorted(self.planned):
            queue = self.planned[rank]
            while queue and len(taken) < most:
                taken.append(queue.popleft())
        return taken

    def put_back(self, taken: Iterable[Planned]) -> None:
        """Take back calls that could not be marked."""
        for planned in reversed(list(taken)):
            self.planned.setdefault(planned.request.rank, deque()).appendleft(planned)

    def requests(self) -> Iterator[Request]:
        """Every request that has not been marked as leaving."""
        for queue in self.planned.values():
            for planned in queue:
                yield planned.request

    def drop_flow(self, flow: int) -> list[Request]:
        """Take a flow out of the lane's hands; returns its requests that were not marked yet."""
        if flow in self.flows:
            self.flows.remove(flow)
        dropped = [request for request in self.requests() if request.flow == flow]
        if dropped:
            self.planned = {
                rank: deque(planned for planned in queue if planned.request.flow != flow)
                for rank, queue in self.planned.items()
            }
        return dropped

    def empty_hands(self) -> list[Request]:
        """Take out everything that has not left."""
        for planned in self.ready:
            self.refund(planned.call)
        requests = [*self.requests(), *(planned.request for planned in self.ready)]
        self.planned.clear()
        self.ready.clear()
        return requests

    # -- what calls cost -------------------------------------------------------------------
    def limited(self, call: Call) -> Mapping[str, int]:
        """What the call costs of what is limited."""
        cost = call.cost or ONE_CALL
        return {unit: cost[unit] for unit in self.units if cost.get(unit)}

    def costs(self, calls: Iterable[Planned]) -> dict[str, int]:
        """Sum up what calls cost of what is limited, by unit."""
        costs: dict[str, int] = {}
        for planned in calls:
            for unit, cost in self.limited(planned.call).items():
                costs[unit] = costs.get(unit, 0) + cost
        return costs

    def refund(self, call: Call) -> None:
        """Take back what a call that did not leave would have cost."""
        for unit, cost in self.limited(call).items():
            self.free[unit] = self.free.get(unit, 0) + cost

    def holds(self) -> dict[Held, int]:
        return {(self.id, unit): held for unit, held in self.held.items()}

    # -- fair shares -----------------------------------------------------------------------
    def offer(self, due: Mapping[int, int]) -> None:
        """Set the flows that have rows due, {flow: rank}, keeping whose turn it is."""
        going_on = [flow for flow in self.flows if flow in due]
        known = set(going_on)
        self.flows = deque([*going_on, *(flow for flow in due if flow not in known)])
        self.ranks = dict(due)

    def share_out(self, rows: int, *, better_than: int | None = None) -> list[tuple[int, int]]:
        """Split `rows` evenly among the flows of the lowest rank, whose turn moves on: [(flow, rows)].

        With `better_than`, only if that rank is lower still.
        """
        if not self.flows or rows <= 0:
            return []
        lowest = min(self.ranks[flow] for flow in self.flows)
        if better_than is not None and lowest >= better_than:
            return []
        mine = [flow for flow in self.flows if self.ranks[flow] == lowest]
        turns = min(rows, len(mine))
        shares = [(mine[i], rows // turns + (i < rows % turns)) for i in range(turns)]
        for flow, _ in shares:
            self.flows.remove(flow)
            self.flows.append(flow)
        return shares

    @property
    def lowest_planned(self) -> int | None:
        """The rank of what leaves next."""
        return min((rank for rank, queue in self.planned.items() if queue), default=None)
