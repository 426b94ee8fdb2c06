"""The ledger's half of a run: one loop that looks, feeds, marks, settles and releases for all lanes at once.

Each step is at most one transaction, a few statements, whatever the number of lanes or rows.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import count

import structlog
from django.conf import settings
from django.db import InterfaceError, OperationalError
from structlog.contextvars import bind_contextvars

from engine.clock.stopping import stop_asked
from engine.processor.contract import Item, Planned, Processor, Report, Stale
from engine.run.batches import batch_size, window
from engine.run.callers import WAITABLE_BLOCK, Callers
from engine.run.lanes import LaneDriver
from engine.run.runtime import DatabaseThread
from engine.store.attempts import new_attempt
from engine.store.ledger import Ledger, Look, Unsettled
from providers.base import Failed
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
DRAINED_AT_A_TIME = 20
DATABASE_PATIENCE = 60.0
"""A run that cannot settle because the database is away tries this long past its deadline."""

clock = time.monotonic


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
        self.database = database
        self.ledger = Ledger(processor)
        self.until_empty = until_empty
        self.idle_seconds = idle_seconds
        self.successor = successor
        self.report = Report(processor.queue)
        self.started = clock()
        self.deadline = self.started + seconds
        self.lanes: dict[int, LaneDriver] = {}
        self.callers = Callers(processor, http, self.lanes)
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
        bind_contextvars(queue=self.processor.queue)
        try:
            while not self.over():
                try:
                    await self.round()
                except (OperationalError, InterfaceError) as error:
                    if clock() > self.deadline + DATABASE_PATIENCE:
                        raise
                    logger.warning("database away, trying again", error=str(error))
                    await asyncio.sleep(0.5)
                await asyncio.sleep(TURN_SECONDS)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
            logger.exception("run failed")
            raise
        finally:
            self.report.seconds = clock() - self.started
            await self.finish()
        if self.report.claimed:
            logger.info("run ended", **self.report.as_dict())
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
        await self.tell_drained()

    def over(self) -> bool:
        if self.lanes or self.callers.unsettled or self.callers.tasks:
            return False
        now = clock()
        if self.ending or now >= self.deadline:
            return True
        if self.quiet() or self.looked_at <= max(self.settled_at, self.told_at):
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
        if self.ledger.run is not None:
            bind_contextvars(run=self.ledger.run)  # the callers begun from here on inherit it
        if look.waiting is not None:
            self.counted_at, self.waiting = now, look.waiting
            self.report.batch_size = batch_size(look.waiting)
        if renew:
            self.renewed_at = now
            self.keep(look, now)
        for leased in look.taken:
            lane = self.lanes[leased.id] = LaneDriver(leased, now=self.looked_at)
            lane.extend(now, settings.LEASE_SECONDS)
        self.report.lanes = max(self.report.lanes, len(self.lanes))
        self.sort_flows(look)
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
                self.callers.give_back(lane.drop_flow(stopped))

    def quiet(self) -> list[int]:
        """List the flows that had rows and have none left, here or in the queue."""
        queued = {flow.flow for flow in self.look_ahead.flows}
        return [flow for flow, rows in self.open.items() if rows <= 0 and flow not in queued]

    async def tell_drained(self) -> bool:
        """Tell the processor of flows that have nothing left, here or in the queue; False when there is none.

        A few at a time, since leases must be renewed and outcomes settled meanwhile.
        """
        quiet = self.quiet()[:DRAINED_AT_A_TIME]
        if quiet:
            await self.database(self.ledger.drained, quiet)
            self.told_at = clock()
            for flow in quiet:
                del self.open[flow]
        return bool(quiet)

    def hand_over(self, now: float) -> None:
        if self.successor and not self.handed_over and self.lanes and now > self.deadline - HANDOVER_SECONDS:
            self.handed_over = True
            task = asyncio.ensure_future(self.database(self.successor))
            self.callers.tasks.add(task)
            task.add_done_callback(self.callers.tasks.discard)

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
            logger.exception("row cannot be planned", lane=lane.facts.name, row=items[0].id)
            self.callers.unsettled.outcomes.append(
                (items[0], Failed("unplannable", f"{type(error).__name__}: {error}"))
            )

    async def mark(self, now: float) -> None:
        """Commit the next slice of every lane as leaving, and let callers at it."""
        chosen: list[tuple[LaneDriver, list[Planned]]] = []
        reserve: dict[int, int] = {}
        for lane in self.lanes.values():
            room = lane.slice - len(lane.ready) - lane.waiting
            if lane.planned and lane.may_call(now) and room >= lane.slice / 2:
                calls = [lane.planned.popleft() for _ in range(min(len(lane.planned), room))]
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
                if got < reserve[lane.id]:  # used up: what was granted leaves, the rest waits
                    self.callers.give_back(item for planned in lane.planned for item in planned.items)
                    lane.planned.clear()
                    lane.flows.clear()
            for planned in calls:
                if (self.marks and any(item.id not in marked for item in planned.items)) or (
                    lane.has_allowance and not lane.reserved
                ):
                    self.callers.give_back(planned.items)
                else:
                    lane.reserved -= lane.has_allowance
                    lane.ready.append(planned)
            self.callers.let_at(lane)

    async def settle(self, now: float) -> None:
        """Write what the callers put down, and what follows from it, in one transaction."""
        taken = self.callers.unsettled
        due = len(taken.outcomes) >= SETTLE_ROWS or now - self.settled_at >= SETTLE_SECONDS or self.ending
        if not taken or not due:
            return
        self.callers.unsettled = Unsettled()
        counted = Report(self.processor.queue)
        try:
            self.report.overtaken += await self.database(self.ledger.settle, taken, counted)
        except BaseException:  # nothing was written, so nothing is lost
            self.callers.unsettled.put_back(taken)
            raise
        for item in taken.items():
            self.open[item.flow] -= 1
            self.lanes[item.lane_id].unsettled -= 1
        self.report.add(counted)
        self.report.calls = self.callers.made
        self.settled_at = self.busy_at = clock()

    async def release(self, now: float) -> None:
        """Let go of lanes that must stop or have nothing to do, once their last row is settled."""
        going = []
        for lane in self.lanes.values():
            if lane.stopped or now >= lane.safe_until or lane.blocked_until - now > WAITABLE_BLOCK:
                self.callers.give_back(lane.empty_hands())
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

    # -- the end ---------------------------------------------------------------------------
    async def finish(self) -> None:
        """Close the run's books; called with no lane left, or when the run broke down."""
        for task in self.callers.tasks:
            task.cancel()
        while not self.error and await self.tell_drained():
            continue
        self.report.remaining, flows = await self.database(self.ledger.close, self.report, self.error)
        if self.successor and self.report.claimed and any(flow.due_in < PATIENCE_SECONDS for flow in flows):
            await self.database(self.successor)


def _fairly(items: list[Item]) -> dict[int, list[Item]]:
    """Group by lane, each flow's first row before any flow's second. `items` come oldest first."""
    ranks: dict[int, count[int]] = defaultdict(count)
    lanes: dict[int, list[Item]] = defaultdict(list)
    for item in sorted(items, key=lambda item: next(ranks[item.flow])):
        lanes[item.lane_id].append(item)
    return lanes
