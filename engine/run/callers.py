"""The callers' half of a run: take what is ready, wait for the slot, call, put the outcome down.

They never wait for the database. What they put down, `Unsettled`, the ledger's half takes as a whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars

from engine.processor.contract import Item, Planned, Processor, Stale
from engine.run.lanes import BREAKER_AFTER, BREAKER_SECONDS, LaneDriver
from engine.store.ledger import Opening, Stop, Unsettled
from providers.base import Done, Hold, InDoubt, Outcome, Reply, Response, Retry, Scope, Throttled
from providers.http import Http

logger = structlog.get_logger(__name__)

PER_SECOND = 4_000
"""Calls that one process can make and settle."""
FEWEST_AT_ONCE, MOST_AT_ONCE = 600, 3_000
"""Calls at once over all lanes, shared out evenly: what the process can make a second, times how long the
vendor takes to answer. More would only be connections, whose buffers are what a run's memory goes to."""
WAITABLE_BLOCK = 2.0
"""Up to this many seconds a throttled lane just waits; beyond, its rows go back."""

clock = time.monotonic


class Callers:
    """Everybody who calls in one run, over all its lanes."""

    def __init__(self, processor: Processor, http: Http, lanes: dict[int, LaneDriver]) -> None:
        self.processor = processor
        self.http = http
        self.lanes = lanes
        self.unsettled = Unsettled()
        self.tasks: set[asyncio.Future[Any]] = set()
        self.made = 0
        self.answer_seconds = 0.15  # smoothed

    def give_back(self, items: Iterable[Item]) -> None:
        """Put down rows that certainly did not leave."""
        self.unsettled.unsent.extend(items)

    def let_at(self, lane: LaneDriver) -> None:
        """Let enough callers at what is ready."""
        at_once = min(max(int(PER_SECOND * self.answer_seconds), FEWEST_AT_ONCE), MOST_AT_ONCE)
        most = min(lane.most_callers, max(at_once // len(self.lanes), 1))
        for _ in range(min(len(lane.ready), most - lane.callers)):
            lane.callers += 1
            task = asyncio.ensure_future(self.caller(lane))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def caller(self, lane: LaneDriver) -> None:
        """Make one ready call after the other until none is left."""
        bind_contextvars(lane=lane.facts.name, tenant=lane.facts.tenant_id)
        send, interpret = self.http.send, self.interpret
        try:
            while lane.ready:
                planned = lane.ready.popleft()
                left_at = await self.turn_to_call(lane)
                if left_at is None:
                    self.give_back(planned.items)
                    continue
                opens = self.http.opens_connection
                response = await send(planned.call)
                if opens:
                    lane.pacer.arrived_by(left_at, clock())
                if isinstance(response, Reply):
                    self.answer_seconds += (response.elapsed - self.answer_seconds) / 100
                lane.made += 1
                self.made += 1
                interpret(lane, planned, response)
        finally:
            lane.callers -= 1

    async def turn_to_call(self, lane: LaneDriver) -> float | None:
        """Wait for the lane's next slot. Returns when the call leaves, None if nothing may any more."""
        pacer = lane.pacer
        slot = pacer.reserve(clock())
        lane.waiting += 1
        try:
            while True:
                now = clock()
                rest = lane.blocked_until - now
                if lane.stopped or now >= lane.safe_until or rest > WAITABLE_BLOCK:
                    return None
                if rest > 0:  # whoever waited through a rest lines up anew, or all would leave at once
                    await asyncio.sleep(rest)
                    slot = pacer.reserve(clock())
                elif (wait := slot - now) > 0 or (wait := pacer.too_early(now)) > 0:
                    wait = min(wait, WAITABLE_BLOCK)
                    await asyncio.sleep(wait)
                    pacer.woke_late(clock() - now - wait)
                else:
                    return now
        finally:
            lane.waiting -= 1

    def interpret(self, lane: LaneDriver, planned: Planned, response: Response) -> None:
        """Put down what the response means, and act at once on what it means for the lane."""
        self.watch_breaker(lane, response)
        if rest := self.processor.rest(response):
            self.throttle(lane, rest)
        left = {item.id: item for item in planned.items}
        try:
            for result in self.processor.interpret(planned, response):
                if isinstance(result, Planned):
                    lane.planned.appendleft(result)
                    for item in result.items:
                        left.pop(item.id, None)
                elif left.pop(result[0].id, None):
                    self.unsettled.outcomes.append(result)
                    if not isinstance(result[1], Done):
                        self.react(lane, *result)
            why = "the processor gave no outcome"
        except Exception as error:
            logger.exception("reply cannot be interpreted")
            why = f"{type(error).__name__}: {error}"
        if left:
            unknown: Outcome = (
                InDoubt(why) if self.processor.stale is Stale.IN_DOUBT else Retry("unreadable", why)
            )
            self.unsettled.outcomes.extend((item, unknown) for item in left.values())

    def react(self, lane: LaneDriver, item: Item, outcome: Outcome) -> None:
        """Hold back at once what the vendor holds back; the row itself is settled with the others."""
        match outcome:
            case Throttled(_, Scope.LANE | Scope.TOKEN):
                self.throttle(lane, outcome)
            case Hold(reason, Scope.FLOW, _, _):
                for other in self.lanes.values():
                    self.give_back(other.drop_flow(item.flow))
            case Hold(reason, scope, code, detail):
                for other in self.sharing(lane, scope):
                    other.stop(reason)
                target = _target(lane, scope)
                self.unsettled.stops[target] = Stop(reason, f"{code} {detail}".strip(), *target)

    def throttle(self, lane: LaneDriver, throttled: Throttled) -> None:
        """Let the lane, or every lane on its token, wait as long as the vendor says."""
        now, seconds = clock(), throttled.after.total_seconds()
        if throttled.slow_down:
            lane.pacer.slow_down(now)
        for other in self.sharing(lane, throttled.scope):
            other.block(now + seconds)
        if seconds > WAITABLE_BLOCK or throttled.scope is Scope.TOKEN:
            why = f"{throttled.code} {throttled.detail}".strip()
            self.unsettled.openings.append(Opening(seconds, why, *_target(lane, throttled.scope)))

    def sharing(self, lane: LaneDriver, scope: Scope) -> Iterable[LaneDriver]:
        if scope is not Scope.TOKEN:
            return [lane]
        return [other for other in self.lanes.values() if other.token_id == lane.token_id]

    def watch_breaker(self, lane: LaneDriver, response: Response) -> None:
        """Rest a lane whose vendor cannot be reached, instead of using up its rows' attempts."""
        if isinstance(response, Reply) and response.status < 500:
            lane.broken_in_a_row = 0
            return
        lane.broken_in_a_row += 1
        if lane.broken_in_a_row == BREAKER_AFTER:
            lane.broken_in_a_row = 0
            lane.block(clock() + BREAKER_SECONDS)
            why = f"HTTP {response.status}" if isinstance(response, Reply) else response.reason
            self.unsettled.openings.append(
                Opening(BREAKER_SECONDS, f"{BREAKER_AFTER} calls failed in a row: {why}", lane.id)
            )


def _target(lane: LaneDriver, scope: Scope) -> tuple[int | None, int | None]:
    return (None, lane.token_id) if scope is Scope.TOKEN else (lane.id, None)
