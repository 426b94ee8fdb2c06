"""From a due row to a call that may leave: claim, plan, reserve, mark, for all lanes at once."""

from __future__ import annotations

from collections import defaultdict
from itertools import count

import structlog

from engine.processor.contract import Request
from engine.processor.counts import Counts
from engine.run.batches import window
from engine.run.callers import Callers
from engine.run.flows import OpenFlows
from engine.run.lanes import LaneDriver, Planned
from engine.run.runtime import DatabaseThread
from engine.store.allowances import Held
from engine.store.attempts import new_attempt
from engine.store.claims import Want
from engine.store.settlements import unpaid
from engine.store.store import Store

logger = structlog.get_logger(__name__)


class Feeder:
    """Keeps the lanes of a run supplied, and the callers with them."""

    def __init__(
        self,
        store: Store,
        database: DatabaseThread,
        lanes: dict[int, LaneDriver],
        callers: Callers,
        flows: OpenFlows,
    ) -> None:
        self.store = store
        self.database = database
        self.lanes = lanes
        self.callers = callers
        self.flows = flows

    async def feed(self, now: float, *, waiting: int, seconds_left: float) -> Counts:
        """Claim for every lane that runs low, or has better to do, in one statement; and plan the calls.

        Returns what was counted: rows claimed, and those that ended without a call.
        """
        wanted = self.wants(now, waiting, seconds_left)
        if not wanted:
            return Counts(self.store.processor.queue)
        fed = await self.database(self.store.feed, wanted)
        for want in wanted:
            lane = self.lanes[want.lane_id]
            found = fed.found.get((want.lane_id, want.flow), 0)
            if found:
                self.flows.know(want.flow)
            if found < want.rows and want.flow in lane.flows:
                lane.flows.remove(want.flow)
        for flow in fed.held:
            self.callers.drop_flow(flow)
        held = set(fed.held)
        for request in _fairly(fed.requests):
            lane = self.lanes[request.lane_id]
            self.flows.take(request.flow)
            lane.unsettled += 1
            if request.flow in held:
                self.callers.give_back((request,))
            else:
                self.plan(lane, request)
        return fed.counts

    def wants(self, now: float, waiting: int, seconds_left: float) -> list[Want]:
        """Say how many rows of which flows each lane should be given, its flows in turn."""
        wanted: list[Want] = []
        for lane in self.lanes.values():
            if lane.flows and lane.may_call(now):
                size = window(
                    waiting=waiting,
                    per_second=lane.per_second,
                    lanes=len(self.lanes),
                    seconds_left=seconds_left,
                )
                have = lane.in_hand
                shares = (
                    lane.share_out(size - have)
                    if have <= size // 2
                    else lane.share_out(size, better_than=lane.lowest_planned)
                )
                wanted.extend(Want(lane.id, flow, rows) for flow, rows in shares)
        return wanted

    def plan(self, lane: LaneDriver, request: Request) -> None:
        request.rank = lane.ranks.get(request.flow, 0)
        request.attempt = request.attempt or new_attempt(request.id, request.attempts + 1)
        if request.flow in self.callers.unsettled.faults:
            self.callers.give_back((request,))
            return
        try:
            lane.plan(Planned(request, self.store.processor.plan(lane.facts, request)))
        except Exception as error:
            logger.exception("request cannot be planned", lane=lane.facts.name, row=request.id)
            self.callers.give_back((request,))
            self.callers.fault(request, error)

    async def mark(self, now: float) -> None:
        """Reserve what the next slice of every lane costs, commit it as leaving, let callers at it."""
        chosen: dict[int, list[Planned]] = {}
        wanted: dict[Held, int] = {}
        held: dict[Held, int] = {}
        for lane in self.lanes.values():
            room = lane.slice - len(lane.ready) - lane.waiting
            if lane.in_hand and lane.may_call(now) and room >= lane.slice / 2:
                calls = chosen[lane.id] = lane.take(room)
                if lane.units:
                    held |= lane.holds()
                    for unit, cost in lane.costs(calls).items():
                        if cost > lane.free.get(unit, 0):
                            wanted[lane.id, unit] = cost - lane.free.get(unit, 0)
        if not chosen:
            return
        try:
            requests = [planned.request for calls in chosen.values() for planned in calls]
            marked, granted = await self.database(self.store.mark, requests, wanted, held)
        except BaseException:
            for lane_id, calls in chosen.items():
                self.lanes[lane_id].put_back(calls)
            raise
        for (lane_id, unit), amount in granted.items():
            lane = self.lanes[lane_id]
            amount = wanted[lane_id, unit] if amount is None else amount
            lane.free[unit] = lane.free.get(unit, 0) + amount
            lane.held[unit] = lane.held.get(unit, 0) + amount
        for lane_id, calls in chosen.items():
            self.let_go(self.lanes[lane_id], calls, marked)

    def let_go(self, lane: LaneDriver, calls: list[Planned], marked: set[int]) -> None:
        """Make ready what was marked and can be paid; the rest goes back."""
        for planned in calls:
            costs = lane.limited(planned.call)
            short = [unit for unit, cost in costs.items() if lane.free.get(unit, 0) < cost]
            if planned.request.id not in marked:
                self.callers.give_back((planned.request,))
            elif "calls" in short:
                self.callers.give_back((planned.request, *lane.requests()))  # used up: the rest waits
                lane.planned.clear()
                lane.flows.clear()
            elif short:  # too dear for what is left; cheaper calls go on
                self.callers.unsettled.outcomes.append((planned.request, unpaid(short[0])))
            else:
                for unit, cost in costs.items():
                    lane.free[unit] -= cost
                lane.ready.append(planned)
        self.callers.let_at(lane)


def _fairly(requests: list[Request]) -> list[Request]:
    """Put each flow's first request before any flow's second. They come oldest first."""
    places: dict[int, count[int]] = defaultdict(count)
    return sorted(requests, key=lambda request: next(places[request.flow]))
