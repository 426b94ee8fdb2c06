"""The runner: claim rows, plan calls, call within the allowance, interpret, settle in bulk, record the run.

One run drives many lanes in one event loop. Two halves meet in the lanes' hands:

* the **ledger** half is one loop, `Turn.go`, that looks, feeds, marks and settles for all lanes at once, a
  few statements each time round, whatever the number of lanes or rows;
* the **callers** take what is ready, wait for their slot, call, and put the outcome down. Sending never
  waits for settling.

A row is in one place only: planned (claimed, may go back), ready (committed as `sending`, not left), in a
caller's hands, or in the outcomes waiting to be settled.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from itertools import count
from math import inf
from typing import Any

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError

from engine.attempts import new_attempt
from engine.batches import batch_size, window
from engine.lanes import BREAKER_AFTER, BREAKER_SECONDS, LaneDriver
from engine.ledger import Ledger, Look, Opening, Stop
from engine.outcomes import settlement
from engine.processors import Item, Planned, Processor, Report, Settled, Stale
from engine.runtime import DatabaseThread, runtime
from engine.stopping import stop_asked
from providers.base import Done, Failed, Hold, InDoubt, Outcome, Reply, Response, Retry, Scope, Throttled
from providers.http import Http

logger = structlog.get_logger(__name__)

TURN_SECONDS = 0.04
"""Between two rounds of the ledger."""
LOOK_SECONDS = 1.0
EAGER_LOOK_SECONDS = 0.2
"""Between two looks at what is due: while lanes are at work, and while there are none."""
SETTLE_SECONDS = 0.2
SETTLE_ROWS = 500
LINGER_SECONDS = 1.0
"""A lane that ran dry is kept this long."""
PATIENCE_SECONDS = 12.0
"""A run with nothing to do does not end while something falls due within this time."""
UNTIL_EMPTY_SECONDS = 60.0
"""`until_empty` waits for what falls due within this time: retries and short rests, not next hour's calls."""
COUNT_SECONDS = 5.0
"""Between two counts of the queue's depth."""
HANDOVER_SECONDS = 1.5
"""The successor is asked for this long before the deadline, so that it stands ready."""
LANES_AT_A_TIME = 100
"""Lanes taken per look: a second runner that looks as well gets its part."""
MOST_LANES = 600
WAITABLE_BLOCK = 2.0
"""Up to this many seconds a throttled lane just waits; beyond, its rows go back."""
DATABASE_PATIENCE = 60.0
"""A run that cannot settle because the database is away tries this long past its deadline."""

clock = time.monotonic


class Runner:
    """A queue whose rows are settled by calls to a vendor."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    def run(
        self,
        *,
        seconds: float,
        until_empty: bool = False,
        idle_seconds: float = inf,
        successor: Callable[[], object] | None = None,
    ) -> Report:
        """Work until the deadline, until nothing is left, or until there was nothing for `idle_seconds`.

        `until_empty` waits for what falls due within a minute. `successor` is called in the database
        thread, shortly before the deadline and at the end, when work is left for another run. An
        interruption (^C) winds the run up: what is in flight is settled, the rest goes back.
        """
        turns: list[Turn] = []

        async def work(http: Http, database: DatabaseThread) -> Report:
            turns.append(Turn(self.processor, http, database, seconds, until_empty, idle_seconds, successor))
            return await turns[0].go()

        future = runtime.start(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            for turn in turns:
                turn.deadline = 0.0
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def waiting(self) -> int:
        """Count the rows still to be done."""

        async def work(_: Http, database: DatabaseThread) -> int:
            return await database(Ledger(self.processor).waiting)

        return runtime.start(work).result()


class Turn:
    """One run, from its first look to its closing line."""

    def __init__(
        self,
        processor: Processor,
        http: Http,
        database: DatabaseThread,
        seconds: float,
        until_empty: bool,
        idle_seconds: float,
        successor: Callable[[], object] | None,
    ) -> None:
        self.processor = processor
        self.http = http
        self.database = database
        self.ledger = Ledger(processor)
        self.until_empty = until_empty
        self.idle_seconds = idle_seconds
        self.successor = successor
        self.report = Report(processor.queue)
        self.started = clock()
        self.deadline = self.started + seconds
        self.lanes: dict[int, LaneDriver] = {}
        self.outcomes: list[Settled] = []
        self.unsent: list[Item] = []
        self.stops: dict[tuple[int | None, int | None], Stop] = {}
        self.openings: list[Opening] = []
        self.tasks: set[asyncio.Future[Any]] = set()
        self.open: Counter[int] = Counter()
        self.look_ahead = Look([])
        self.waiting = 0
        self.ending = False
        self.handed_over = False
        self.error = ""
        self.settled_at = self.looked_at = self.renewed_at = self.counted_at = self.told_at = 0.0
        self.busy_at = self.started
        self.marks = processor.stale is not Stale.GIVE_BACK

    # -- the ledger's half -----------------------------------------------------------------
    async def go(self) -> Report:
        log = logger.bind(queue=self.processor.queue)
        try:
            while not self.over():
                try:
                    await self.round()
                except (OperationalError, InterfaceError) as error:
                    if clock() > self.deadline + DATABASE_PATIENCE:
                        raise
                    log.warning("database away, trying again", error=str(error))
                    await asyncio.sleep(0.5)
                await asyncio.sleep(TURN_SECONDS)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
            log.exception("run failed", run=self.ledger.run)
            raise
        finally:
            self.report.seconds = clock() - self.started
            await self.finish()
        if self.report.claimed:
            log.info("run ended", run=self.ledger.run, **self.report.as_dict())
        return self.report

    async def round(self) -> None:
        """Once round: every step is at most one transaction, and is skipped when it has nothing to do."""
        now = clock()
        if not self.ending and (now >= self.deadline or stop_asked()):
            self.wind_up()
        if now - self.looked_at >= (
            LOOK_SECONDS if any(not lane.idle for lane in self.lanes.values()) else EAGER_LOOK_SECONDS
        ):
            await self.look(now)
        await self.settle(now)
        if not self.ending:
            await self.feed(now)
            await self.mark(now)
        await self.release(now)

    def over(self) -> bool:
        if self.lanes or self.outcomes or self.unsent or self.tasks:
            return False
        now = clock()
        if self.ending or now >= self.deadline:
            return True
        if self.open or self.looked_at <= max(self.settled_at, self.told_at):
            return False  # what was settled or drained may have made more runnable: look first
        soonest = min((flow.due_in for flow in self.look_ahead.flows), default=UNTIL_EMPTY_SECONDS)
        if self.until_empty:
            return soonest >= UNTIL_EMPTY_SECONDS and not self.look_ahead.in_hand
        return now - self.busy_at > self.idle_seconds and not 0 < soonest < PATIENCE_SECONDS

    def wind_up(self) -> None:
        """Let nothing more leave; what is in flight is waited for and settled."""
        self.ending = True
        for lane in self.lanes.values():
            lane.stop("the run ends")

    async def look(self, now: float) -> None:
        """See what is due, keep the leases, take free lanes."""
        renew = now - self.renewed_at >= settings.LEASE_SECONDS / 4
        depth = now - self.counted_at >= COUNT_SECONDS
        for lane in self.lanes.values():
            lane.pacer.recover(now)
            if self.looked_at:
                lane.measure(now - self.looked_at)
        look = await self.database(
            self.ledger.look,
            held={lane.id: lane.pacer.rate_now for lane in self.lanes.values()},
            in_hand=sorted(
                {item.flow for lane in self.lanes.values() for p in lane.planned for item in p.items}
            ),
            renew=renew,
            most_lanes=0 if self.ending else min(LANES_AT_A_TIME, MOST_LANES - len(self.lanes)),
            depth=depth,
            report=self.report,
        )
        self.looked_at, self.look_ahead = clock(), look
        if look.waiting is not None:
            self.counted_at, self.waiting = now, look.waiting
            self.report.batch_size = batch_size(look.waiting)
        if renew:
            self.renewed_at = now
            self.keep(look, now)
        for leased in look.taken:
            self.lanes[leased.id] = LaneDriver(leased, now=now, lease_seconds=settings.LEASE_SECONDS)
        self.report.lanes = max(self.report.lanes, len(self.lanes))
        self.sort_flows(look)
        await self.tell_drained()
        self.hand_over(now)

    def keep(self, look: Look, now: float) -> None:
        """Go on with the lanes that were renewed, stop those that were not or that somebody paused."""
        kept = {lane.id: lane for lane in look.kept}
        for lane in self.lanes.values():
            if lane.id not in kept:
                lane.stop("lost")
            elif kept[lane.id].stopped:
                lane.stop("held")
            else:
                lane.extend(now, settings.LEASE_SECONDS)

    def sort_flows(self, look: Look) -> None:
        """Give each lane its due flows, and take back what may no longer run."""
        due: dict[int, list[int]] = defaultdict(list)
        for flow in look.flows:
            if flow.due_in <= 0:
                due[flow.lane_id].append(flow.flow)
        for lane in self.lanes.values():
            lane.offer(due[lane.id])
            in_hand = {item.flow for planned in lane.planned for item in planned.items}
            for stopped in in_hand - look.runnable:
                self.unsent.extend(lane.drop_flow(stopped))

    async def tell_drained(self) -> None:
        """Tell the processor of flows that have nothing left, here or in the queue."""
        queued = {flow.flow for flow in self.look_ahead.flows}
        quiet = [flow for flow, rows in self.open.items() if rows <= 0 and flow not in queued]
        if quiet:
            await self.database(self.ledger.drained, quiet)
            self.told_at = clock()
            for flow in quiet:
                del self.open[flow]

    def hand_over(self, now: float) -> None:
        if self.successor and not self.handed_over and self.lanes and now > self.deadline - HANDOVER_SECONDS:
            self.handed_over = True
            task = asyncio.ensure_future(self.database(self.successor))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def feed(self, now: float) -> None:
        """Claim for every lane that runs low, in one statement, and plan its calls."""
        left = self.deadline - now
        wanted: list[tuple[int, int, int]] = []
        for lane in self.lanes.values():
            if lane.flows and lane.may_call(now):
                size = window(
                    waiting=self.waiting,
                    per_second=lane.per_second,
                    lanes=len(self.lanes),
                    rows_per_call=self.processor.rows_per_call,
                    seconds_left=left,
                )
                have = lane.in_hand
                if have <= size // 2:
                    wanted.extend((lane.id, flow, rows) for flow, rows in lane.share_out(size - have))
        if not wanted:
            return
        items, closed = await self.database(self.ledger.feed, wanted, self.report)
        found: dict[tuple[int, int], int] = defaultdict(int)
        for item in (*items, *closed):
            found[item.lane_id, item.flow] += 1
            self.open[item.flow] += 0
        for item in items:
            self.open[item.flow] += 1
            self.lanes[item.lane_id].unsettled += 1
        for lane_id, flow, rows in wanted:
            if found[lane_id, flow] < rows and flow in self.lanes[lane_id].flows:
                self.lanes[lane_id].flows.remove(flow)
        for lane_id, theirs in _fairly(items).items():
            self.plan(self.lanes[lane_id], theirs)

    def plan(self, lane: LaneDriver, items: list[Item]) -> None:
        if self.marks:
            for item in items:
                item.seen_before = item.attempt is not None
                item.attempt = item.attempt or new_attempt(item.id, item.attempts + 1)
        try:
            lane.planned.extend(self.processor.plan(lane.facts, items))
        except Exception as error:
            if len(items) > 1:  # find the row at fault, and let the others go
                for item in items:
                    self.plan(lane, [item])
                return
            logger.exception("row cannot be planned", queue=self.processor.queue, row=items[0].id)
            self.outcomes.append((items[0], Failed("unplannable", f"{type(error).__name__}: {error}")))

    async def mark(self, now: float) -> None:
        """Commit the next slice of every lane as leaving, and let callers at it."""
        chosen: list[tuple[LaneDriver, list[Planned]]] = []
        reserve: dict[int, int] = {}
        for lane in self.lanes.values():
            if lane.planned and lane.may_call(now) and len(lane.ready) <= lane.slice // 2:
                calls = [
                    lane.planned.popleft()
                    for _ in range(min(len(lane.planned), lane.slice - len(lane.ready)))
                ]
                chosen.append((lane, calls))
                if lane.has_allowance and len(calls) > lane.reserved:
                    reserve[lane.id] = len(calls) - lane.reserved
        if not chosen:
            return
        try:
            items = (
                [item for _, calls in chosen for planned in calls for item in planned.items]
                if self.marks
                else []
            )
            marked, granted = set[int](), dict[int, int]()
            if items or reserve:
                marked, granted = await self.database(self.ledger.mark, items, reserve)
        except BaseException:
            for lane, calls in chosen:
                lane.planned.extendleft(reversed(calls))
            raise
        for lane, calls in chosen:
            if lane.id in reserve:
                got = granted.get(lane.id, 0)
                lane.reserved += got
                if (
                    got < reserve[lane.id]
                ):  # used up: what was granted leaves, the rest waits for the next window
                    self.unsent.extend(item for planned in lane.planned for item in planned.items)
                    lane.planned.clear()
                    lane.flows.clear()
            for planned in calls:
                if (self.marks and any(item.id not in marked for item in planned.items)) or (
                    lane.has_allowance and not lane.reserved
                ):
                    self.unsent.extend(planned.items)
                else:
                    lane.reserved -= lane.has_allowance
                    lane.ready.append(planned)
            self.call(lane)

    async def settle(self, now: float) -> None:
        """Write what the callers put down, and what follows from it, in one transaction."""
        due = len(self.outcomes) >= SETTLE_ROWS or now - self.settled_at >= SETTLE_SECONDS or self.ending
        if not due or not (self.outcomes or self.unsent or self.stops or self.openings):
            return
        outcomes, self.outcomes = self.outcomes, []
        unsent, self.unsent = self.unsent, []
        stops, self.stops = self.stops, {}
        openings, self.openings = self.openings, []
        counted = Report(self.processor.queue)
        try:
            overtaken = await self.database(
                self.ledger.settle,
                [settlement(self.processor, item, outcome, counted) for item, outcome in outcomes],
                [(item, outcome) for item, outcome in outcomes if not isinstance(outcome, Done)],
                list(stops.values()),
                openings,
                [item.id for item in unsent],
            )
        except BaseException:  # nothing was written: put all of it back, nothing is lost
            self.outcomes[:0], self.unsent[:0], self.openings[:0] = outcomes, unsent, openings
            self.stops = stops | self.stops
            raise
        for item in (*(item for item, _ in outcomes), *unsent):
            self.open[item.flow] -= 1
            self.lanes[item.lane_id].unsettled -= 1
        self.settled_at = self.busy_at = clock()
        self.report.given_back += len(unsent)
        self.report.overtaken += overtaken
        for name in ("done", "pending", "retried", "throttled", "failed", "in_doubt", "held"):
            setattr(self.report, name, getattr(self.report, name) + getattr(counted, name))

    async def release(self, now: float) -> None:
        """Let go of lanes that must stop or have nothing to do, once their last row is settled."""
        going = []
        for lane in self.lanes.values():
            if lane.stopped or now >= lane.safe_until or lane.blocked_until - now > WAITABLE_BLOCK:
                self.unsent.extend(lane.empty_hands())
            elif lane.flows or not lane.idle:
                lane.busy_at = now
                continue
            elif now - lane.busy_at < LINGER_SECONDS and not self.until_empty:
                continue
            if lane.idle and not lane.unsettled:
                going.append(lane)
        if not going:
            return
        await self.database(
            self.ledger.release,
            [
                (lane.id, lane.pacer.rate_now, lane.reserved, lane.pacer.free_from(now) - now)
                for lane in going
            ],
        )
        for lane in going:
            del self.lanes[lane.id]

    # -- the callers' half -----------------------------------------------------------------
    def call(self, lane: LaneDriver) -> None:
        """Let enough callers at what is ready."""
        for _ in range(min(len(lane.ready), lane.most_callers - lane.callers)):
            lane.callers += 1
            task = asyncio.ensure_future(self.caller(lane))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def caller(self, lane: LaneDriver) -> None:
        """Make one ready call after the other until none is left."""
        send, interpret = self.http.send, self.interpret
        try:
            while lane.ready:
                planned = lane.ready.popleft()
                if not await self.turn_to_call(lane):
                    self.unsent.extend(planned.items)
                    continue
                response = await send(planned.call)
                lane.made += 1
                self.report.calls += 1
                interpret(lane, planned, response)
        finally:
            lane.callers -= 1

    async def turn_to_call(self, lane: LaneDriver) -> bool:
        """Wait for the lane's next slot; False when nothing may leave any more."""
        slot = lane.pacer.reserve(clock())
        while True:
            now = clock()
            if lane.stopped or now >= lane.safe_until or lane.blocked_until - now > WAITABLE_BLOCK:
                return False
            wait = max(slot, lane.blocked_until) - now
            if wait <= 0 and (wait := lane.pacer.too_early(now)) <= 0:
                return True
            await asyncio.sleep(min(wait, WAITABLE_BLOCK))

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
                    self.outcomes.append(result)
                    if not isinstance(result[1], Done):
                        self.react(lane, *result)
            why = "the processor gave no outcome"
        except Exception as error:
            logger.exception("reply cannot be interpreted", queue=self.processor.queue, lane=lane.facts.name)
            why = f"{type(error).__name__}: {error}"
        if left:
            unknown: Outcome = (
                InDoubt(why) if self.processor.stale is Stale.IN_DOUBT else Retry("unreadable", why)
            )
            self.outcomes.extend((item, unknown) for item in left.values())

    def react(self, lane: LaneDriver, item: Item, outcome: Outcome) -> None:
        """Hold back at once what the vendor holds back; the row itself is settled with the others."""
        match outcome:
            case Throttled(_, Scope.LANE | Scope.TOKEN):
                self.throttle(lane, outcome)
            case Hold(reason, Scope.FLOW, _, _):
                for other in self.lanes.values():
                    self.unsent.extend(other.drop_flow(item.flow))
            case Hold(reason, scope, code, detail):
                for other in self.sharing(lane, scope):
                    other.stop(reason)
                target = _target(lane, scope)
                self.stops[target] = Stop(reason, f"{code} {detail}".strip(), *target)

    def throttle(self, lane: LaneDriver, throttled: Throttled) -> None:
        """Let the lane, or every lane on its token, wait as long as the vendor says."""
        now, seconds = clock(), throttled.after.total_seconds()
        if throttled.slow_down:
            lane.pacer.slow_down(now)
        for other in self.sharing(lane, throttled.scope):
            other.block(now + seconds)
        if seconds > WAITABLE_BLOCK or throttled.scope is Scope.TOKEN:
            why = f"{throttled.code} {throttled.detail}".strip()
            self.openings.append(Opening(seconds, why, *_target(lane, throttled.scope)))

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
            self.openings.append(
                Opening(BREAKER_SECONDS, f"{BREAKER_AFTER} calls failed in a row: {why}", lane.id)
            )

    # -- the end ---------------------------------------------------------------------------
    async def finish(self) -> None:
        """Close the run's books; called with no lane left, or when the run broke down."""
        for task in self.tasks:
            task.cancel()
        if not self.error:
            await self.tell_drained()
        self.report.remaining, flows = await self.database(self.ledger.close, self.report, self.error)
        if self.successor and self.report.claimed and any(flow.due_in < PATIENCE_SECONDS for flow in flows):
            await self.database(self.successor)


def _target(lane: LaneDriver, scope: Scope) -> tuple[int | None, int | None]:
    return (None, lane.token_id) if scope is Scope.TOKEN else (lane.id, None)


def _fairly(items: list[Item]) -> dict[int, list[Item]]:
    """Group by lane, each flow's first row before any flow's second. `items` come oldest first."""
    ranks: dict[int, count[int]] = defaultdict(count)
    lanes: dict[int, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: next(ranks[item.flow])):
        lanes[item.lane_id].append(item)
    return lanes
