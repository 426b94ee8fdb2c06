"""The callers' half of a run: take what is ready, wait for the slot, call, put the outcome down.

They never wait for the database. What they put down, `Unsettled`, the store's half takes as a whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from itertools import count
from typing import Any

import structlog

from engine.processor.contract import Processor, Request, Stale
from engine.run.lanes import LaneDriver, Planned
from engine.store.values import Opening, Stop, Unsettled
from providers.base import (
    Continue,
    Done,
    Hold,
    InDoubt,
    Lost,
    Outcome,
    Reply,
    Response,
    Scope,
    Throttled,
    Unsent,
    Usage,
)
from providers.http import Http

logger = structlog.get_logger(__name__)

PER_SECOND = 4_000
"""Calls that one process can make and settle."""
FEWEST_AT_ONCE, MOST_AT_ONCE = 600, 3_000
"""Calls at once over all lanes, shared out evenly: what the process can make a second, times how long the
vendor takes to answer. More would only be connections, whose buffers are what a run's memory goes to."""
WAITABLE_BLOCK = 2.0
"""Up to this many seconds a throttled lane just waits; beyond, its rows go back."""
LOOK_UP_SECONDS = 0.5
"""A caller that waits for its slot looks up this often: the rate may have changed."""
SLOWED = 0.9
"""A pace that falls at once to this part of itself is logged."""
SILENCE_SECONDS = 0.05
"""Between two looks at a lane whose vendor is silent."""

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
        self._numbers = count()

    def give_back(self, requests: Iterable[Request]) -> None:
        """Put down requests that certainly did not leave."""
        self.unsettled.unsent.extend(requests)

    def let_at(self, lane: LaneDriver) -> None:
        """Let enough callers at what is ready."""
        at_once = min(max(int(PER_SECOND * self.answer_seconds), FEWEST_AT_ONCE), MOST_AT_ONCE)
        most = min(lane.most_callers, max(at_once // len(self.lanes), 1))
        loop = asyncio.get_running_loop()
        for _ in range(min(len(lane.ready), most - lane.callers)):
            lane.callers += 1
            task = loop.create_task(self.caller(lane), context=lane.context)
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def caller(self, lane: LaneDriver) -> None:
        """Make one ready call after the other until none is left."""
        send, interpret, breaker = self.http.send, self.interpret, lane.breaker
        try:
            while lane.ready:
                planned = lane.ready.popleft()
                left_at = await self.turn_to_call(lane)
                if left_at is None:
                    lane.refund(planned.call)
                    self.give_back((planned.request,))
                    continue
                number = next(self._numbers)
                breaker.left(number, left_at)
                try:
                    response = await send(planned.call)
                except Exception as error:  # a caller that ends here would leave its row `sending` for ever
                    logger.exception("call ended oddly", row=planned.request.id)
                    response = Lost(f"{type(error).__name__}: {error}")
                if not isinstance(response, Unsent):
                    lane.made += 1
                    self.made += 1
                interpret(lane, planned, response, number, left_at)
        finally:
            lane.callers -= 1

    async def turn_to_call(self, lane: LaneDriver) -> float | None:
        """Wait for the lane's next slot. Returns when the call leaves, None if nothing may any more."""
        pacer, breaker = lane.pacer, lane.breaker
        slot, epoch = pacer.reserve(clock()), pacer.epoch
        lane.waiting += 1
        try:
            while True:
                now = clock()
                rest = lane.blocked_until - now
                if lane.stopped or now >= lane.safe_until or rest > WAITABLE_BLOCK:
                    return None
                if rest > 0:  # whoever waited through a rest lines up anew, or all would leave at once
                    await asyncio.sleep(rest)
                    slot, epoch = pacer.reserve(clock()), pacer.epoch
                elif epoch != pacer.epoch:
                    slot, epoch = pacer.reserve(now), pacer.epoch
                elif breaker.full or breaker.silent(now):
                    await asyncio.sleep(SILENCE_SECONDS)
                elif (wait := slot - now) > 0 or (wait := pacer.too_early(now)) > 0:
                    await asyncio.sleep(min(wait, LOOK_UP_SECONDS))
                else:
                    return now
        finally:
            lane.waiting -= 1

    def interpret(
        self, lane: LaneDriver, planned: Planned, response: Response, number: int, left_at: float
    ) -> None:
        """Put down what the response means, and act at once on what it means for the lane."""
        request = planned.request
        self.watch_breaker(lane, response, number)
        self.account(lane, planned, response)
        try:
            outcome = self.processor.interpret(lane.facts, request, response)
        except Exception as error:
            logger.exception("reply cannot be interpreted", row=request.id)
            self.fault(request, error)
            outcome = self.unknown(error)
        try:
            if isinstance(response, Reply) and (usage := self.processor.usage(response)):
                self.hear(lane, usage)
        except Exception as error:  # the outcome stands: what was accepted is not in doubt for it
            logger.exception("usage cannot be read", row=request.id)
            self.fault(request, error)
        self.unsettled.outcomes.append((request, outcome))
        if not isinstance(outcome, Done):
            self.react(lane, request, outcome, left_at)

    def unknown(self, error: Exception) -> Outcome:
        """What is known of a call whose reply our own code cannot read: a read is made again, and what
        begins something is looked for, once the flow goes on."""
        if self.processor.stale is Stale.IN_DOUBT:
            return InDoubt(f"the reply cannot be interpreted: {type(error).__name__}: {error}")
        return Continue()

    def fault(self, request: Request, error: Exception) -> None:
        """Hold the flow that our own code fails for; the others go on."""
        self.unsettled.faults.setdefault(request.flow, (request, f"{type(error).__name__}: {error}"))
        self.drop_flow(request.flow)

    def drop_flow(self, flow: int) -> None:
        for lane in self.lanes.values():
            self.give_back(lane.drop_flow(flow))

    def account(self, lane: LaneDriver, planned: Planned, response: Response) -> None:
        """Count what the call cost; what never reached the vendor cost nothing."""
        if not lane.units:
            return
        if isinstance(response, Unsent):
            lane.refund(planned.call)
            return
        spent = self.unsettled.spent
        for unit, cost in lane.limited(planned.call).items():
            key = lane.id, unit, planned.request.tenant_id
            spent[key] = spent.get(key, 0) + cost

    def hear(self, lane: LaneDriver, usage: Usage) -> None:
        """Remember what the vendor says of the allowance, and rest every lane on it at once if it must be."""
        self.unsettled.usages[lane.token_id, usage.unit] = usage
        if usage.regain_after or (usage.share is not None and usage.share >= 1.0):
            after = usage.regain_after
            if after is not None:
                self.throttle(
                    lane, Throttled(after, Scope.TOKEN, "usage", "the vendor's limit is used up"), 0.0
                )

    def react(self, lane: LaneDriver, request: Request, outcome: Outcome, left_at: float) -> None:
        """Hold back at once what the vendor holds back; the row itself is settled with the others."""
        match outcome:
            case Throttled():
                self.throttle(lane, outcome, left_at)
            case Hold(_, Scope.FLOW, _, _):
                self.drop_flow(request.flow)
            case Hold(reason, scope, code, detail):
                for other in self.sharing(lane, scope):
                    other.stop(reason)
                target = _target(lane, scope)
                self.unsettled.stops[target] = Stop(reason, f"{code} {detail}".strip(), *target)

    def throttle(self, lane: LaneDriver, throttled: Throttled, left_at: float) -> None:
        """Let the lane, or every lane on its token, wait as long as the vendor says."""
        now, seconds = clock(), throttled.after.total_seconds()
        if throttled.slow_down:
            before = lane.pacer.rate_now
            lane.pacer.refused(left_at, now)
            if before and (pace := lane.pacer.rate_now or before) < SLOWED * before:
                logger.warning("lane slowed", was=round(before, 1), now=round(pace, 1))
        if throttled.scope not in (Scope.LANE, Scope.TOKEN):
            return
        for other in self.sharing(lane, throttled.scope):
            other.block(now + seconds)
        if seconds > WAITABLE_BLOCK or throttled.scope is Scope.TOKEN:
            why = f"{throttled.code} {throttled.detail}".strip()
            self.unsettled.openings.append(Opening(seconds, why, 0, *_target(lane, throttled.scope)))

    def sharing(self, lane: LaneDriver, scope: Scope) -> Iterable[LaneDriver]:
        if scope is not Scope.TOKEN:
            return [lane]
        return [other for other in self.lanes.values() if other.token_id == lane.token_id]

    def watch_breaker(self, lane: LaneDriver, response: Response, number: int) -> None:
        """Rest a lane whose vendor cannot be reached, instead of using up its rows' attempts."""
        now = clock()
        if isinstance(response, Reply) and response.status < 500:
            lane.breaker.answered(number, now, response.elapsed, lane.most_callers)
            self.answer_seconds += (response.elapsed - self.answer_seconds) / 100
            return
        rest = lane.breaker.broke(number, now)
        if rest is not None:
            lane.block(now + rest)
            logger.warning("lane rests", seconds=rest, openings=lane.breaker.openings)
            why = f"HTTP {response.status}" if isinstance(response, Reply) else response.reason
            detail = f"the vendor cannot be reached, tried again in {rest:.0f} s: {why}"
            self.unsettled.openings.append(Opening(rest, detail, lane.breaker.openings, lane.id))


def _target(lane: LaneDriver, scope: Scope) -> tuple[int | None, int | None]:
    return (None, lane.token_id) if scope is Scope.TOKEN else (lane.id, None)
