"""The store's half of a run: one loop that looks, feeds, marks, settles and releases for all lanes at once.

Each step is at most one transaction, a few statements, whatever the number of lanes or rows.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable

import structlog
from django.conf import settings
from structlog.contextvars import bind_contextvars

from engine.clock.stopping import stop_asked
from engine.processor.contract import Processor
from engine.processor.counts import Counts
from engine.run.batches import batch_size
from engine.run.callers import WAITABLE_BLOCK, Callers
from engine.run.feeding import Feeder
from engine.run.flows import OpenFlows
from engine.run.lanes import LaneDriver
from engine.run.runtime import DatabaseThread
from engine.run.timing import (
    COUNT_SECONDS,
    DATABASE_PATIENCE,
    DRAINED_AT_A_TIME,
    EAGER_LOOK_SECONDS,
    HANDOVER_SECONDS,
    LANES_AT_A_TIME,
    LINGER_SECONDS,
    LOOK_SECONDS,
    MOST_LANES,
    PATIENCE_SECONDS,
    ROUND_SECONDS,
    SETTLE_ROWS,
    SETTLE_SECONDS,
    UNTIL_EMPTY_SECONDS,
)
from engine.store.allowances import Held
from engine.store.errors import DatabaseAway, RowsLocked
from engine.store.store import Store
from engine.store.values import Look, Unsettled
from providers.http import Http

logger = structlog.get_logger(__name__)

clock = time.monotonic


class Loop:
    """One run of one processor, from its first look to its closing line."""

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
        self.store = Store(processor)
        self.until_empty = until_empty
        self.idle_seconds = idle_seconds
        self.successor = successor
        self.counts = Counts(processor.queue)
        self.started = clock()
        self.deadline = self.started + seconds
        self.lanes: dict[int, LaneDriver] = {}
        self.callers = Callers(processor, http, self.lanes)
        self.flows = OpenFlows()
        self.feeder = Feeder(self.store, database, self.lanes, self.callers, self.flows)
        self.seen = Look([], None)
        self.waiting = 0
        self.ending = False
        self.handed_over = False
        self.cut_off = ""
        self.error = ""
        self.astray = False
        self.settled_at = self.looked_at = self.renewed_at = self.counted_at = self.told_at = 0.0
        self.busy_at = self.started

    async def go(self) -> Counts:
        """Work until there is nothing to do or the time is up; the run's row tells the truth either way."""
        bind_contextvars(queue=self.processor.queue, processor=self.processor.name)
        try:
            while not self.over():
                try:
                    await self.round()
                except DatabaseAway as error:
                    if clock() > self.deadline + DATABASE_PATIENCE:
                        raise
                    self.astray = True
                    logger.warning("database away, trying again", error=str(error))
                    await asyncio.sleep(0.2)
                except RowsLocked as error:
                    logger.warning("rows are locked by others, trying again", error=str(error))
                await asyncio.sleep(ROUND_SECONDS)
        except BaseException as error:
            self.error = f"{type(error).__name__}: {error}"
            logger.exception("run failed")
            raise
        finally:
            self.counts.seconds = clock() - self.started
            await self.finish()
        if self.counts.claimed:
            logger.info("run ended", **self.counts.as_dict())
        return self.counts

    async def round(self) -> None:
        """Once round: every step is at most one transaction, and is skipped when it has nothing to do."""
        now = clock()
        if not self.ending and (now >= self.deadline or stop_asked()):
            self.wind_up()
        if self.astray:
            await self.find_strays()
        if now - self.looked_at >= (
            LOOK_SECONDS if any(not lane.idle for lane in self.lanes.values()) else EAGER_LOOK_SECONDS
        ):
            await self.look(now)
        await self.settle(now)
        if not self.ending:
            fed = await self.feeder.feed(now, waiting=self.waiting, seconds_left=self.deadline - now)
            self.counts.add(fed)
            await self.feeder.mark(now)
        await self.release(now)
        await self.tell_drained(now)

    def over(self) -> bool:
        if self.lanes or self.callers.unsettled or self.callers.tasks:
            return False
        now = clock()
        if self.ending or now >= self.deadline:
            return True
        if self.quiet(now) or self.looked_at <= max(self.settled_at, self.told_at):
            return False  # what was settled or drained may have made more runnable: look first
        soonest = min((flow.due_in for flow in self.seen.flows), default=UNTIL_EMPTY_SECONDS)
        if self.until_empty:
            return soonest >= UNTIL_EMPTY_SECONDS and not self.seen.in_hand
        return now - self.busy_at > self.idle_seconds and not 0 < soonest < PATIENCE_SECONDS

    def wind_up(self) -> None:
        """Let nothing more leave; what is in flight is waited for and settled."""
        self.ending = True
        for lane in self.lanes.values():
            lane.stop("the run ends")

    def cut(self, why: str) -> None:
        """End as soon as what is in flight is settled, and say in the run's row that it was cut off."""
        self.cut_off, self.deadline = why, 0.0

    # -- looking ---------------------------------------------------------------------------
    async def look(self, now: float) -> None:
        """See what is due, keep the leases, follow what people changed, take free lanes."""
        renew = now - self.renewed_at >= settings.LEASE_SECONDS / 4
        depth = now - self.counted_at >= COUNT_SECONDS
        for lane in self.lanes.values():
            lane.pacer.recover(now)
            if self.looked_at:
                lane.measure(now - self.looked_at)
        seen = await self.database(
            self.store.look,
            paces={lane.id: lane.pace(now) for lane in self.lanes.values()},
            in_hand=sorted({request.flow for lane in self.lanes.values() for request in lane.requests()}),
            renew=renew,
            most_lanes=0 if self.ending else min(LANES_AT_A_TIME, MOST_LANES - len(self.lanes)),
            depth=depth,
            counts=self.counts,
        )
        self.looked_at, self.seen = clock(), seen
        self.store.run = seen.run
        if seen.run is not None:
            bind_contextvars(run=seen.run)  # the callers begun from here on inherit it
        if seen.waiting is not None:
            self.counted_at, self.waiting = now, seen.waiting
            self.counts.batch_size = batch_size(seen.waiting)
        for lane in self.lanes.values():
            if found := seen.lanes.get(lane.id):
                lane.read(*found, now)
                if lane.id in seen.renewed:
                    lane.extend(now, settings.LEASE_SECONDS)
            else:
                lane.stop("lost")
        if renew:
            self.renewed_at = now
        for leased, facts in seen.taken:
            lane = self.lanes[facts.id] = LaneDriver(leased, facts, now=self.looked_at)
            lane.extend(now, settings.LEASE_SECONDS)
        self.counts.lanes = max(self.counts.lanes, len(self.lanes))
        self.sort_flows(seen)
        self.hand_over(now)

    def sort_flows(self, seen: Look) -> None:
        """Give each lane its due flows, and take back what may no longer run."""
        due: dict[int, dict[int, int]] = defaultdict(dict)
        for flow in seen.flows:
            if flow.due_in <= 0:
                due[flow.lane_id][flow.flow] = flow.rank
        for lane in self.lanes.values():
            lane.offer(due[lane.id])
            for stopped in {request.flow for request in lane.requests()} - seen.runnable:
                self.callers.give_back(lane.drop_flow(stopped))

    async def find_strays(self) -> None:
        """After a lost connection: give back what was claimed by a commit that nobody acknowledged."""
        known = [request.id for lane in self.lanes.values() for request in lane.requests()]
        known += [planned.request.id for lane in self.lanes.values() for planned in lane.ready]
        known += [request.id for request in self.callers.unsettled.requests()]
        found = await self.database(self.store.strays, list(self.lanes), known)
        self.astray = False
        if found:
            logger.warning("claimed rows given back after a lost connection", rows=found)

    def hand_over(self, now: float) -> None:
        if self.successor and not self.handed_over and self.lanes and now > self.deadline - HANDOVER_SECONDS:
            self.handed_over = True
            task = asyncio.ensure_future(self.database(self.successor))
            self.callers.tasks.add(task)
            task.add_done_callback(self.callers.tasks.discard)

    # -- settling --------------------------------------------------------------------------
    async def settle(self, now: float) -> None:
        """Write what the callers put down, and what follows from it, in one transaction."""
        taken = self.callers.unsettled
        due = len(taken.outcomes) >= SETTLE_ROWS or now - self.settled_at >= SETTLE_SECONDS or self.ending
        if not taken or not due:
            return
        self.callers.unsettled = Unsettled()
        later = [pair for pair in taken.outcomes if self.flows.waits(pair[0].flow, now)]
        if later:
            self.callers.unsettled.outcomes = later
            ids = {id(pair) for pair in later}
            taken.outcomes = [pair for pair in taken.outcomes if id(pair) not in ids]
            if not taken:
                return
        try:
            written = await self.database(self.store.settle, taken, self.holds_after(taken))
        except BaseException:  # nothing was written, or it will be written the same once more
            self.callers.unsettled.put_back(taken)
            raise
        for (lane_id, unit, _), amount in taken.spent.items():
            if lane := self.lanes.get(lane_id):
                lane.held[unit] = max(0, lane.held.get(unit, 0) - amount)
        for request, _ in written.locked:
            self.flows.lock(request.flow, now)
        again = Unsettled(
            [*written.locked, *written.rows_locked],
            written.unsent_locked,
            {(stop.lane_id, stop.token_id): stop for stop in written.stops_locked},
            written.openings_locked,
        )
        locked = {request.id for request in again.requests()}
        self.callers.unsettled.put_back(again)
        for request in taken.requests():
            if request.id not in locked:
                self.flows.settle(request.flow)
                self.lanes[request.lane_id].unsettled -= 1
        for flow in written.held:
            self.callers.drop_flow(flow)
        self.counts.add(written.counts)
        self.counts.calls = self.callers.made
        self.settled_at = self.busy_at = clock()

    def holds_after(self, taken: Unsettled) -> dict[Held, int]:
        """What the lanes hold of allowances once this is written as spent."""
        held: dict[Held, int] = {}
        for (lane_id, unit, _), amount in taken.spent.items():
            lane = self.lanes.get(lane_id)
            before = held.get((lane_id, unit), lane.held.get(unit, 0) if lane else 0)
            held[lane_id, unit] = max(0, before - amount)
        return held

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
        locked = await self.database(self.store.release, {lane.id: lane.pace(now) for lane in going})
        for lane in going:
            if lane.id not in locked:
                del self.lanes[lane.id]

    # -- flows that have nothing left ------------------------------------------------------
    def quiet(self, now: float) -> list[int]:
        return self.flows.quiet({flow.flow for flow in self.seen.flows}, now)

    async def tell_drained(self, now: float) -> bool:
        """Tell the processor of flows that have nothing left, here or in the queue; False when there is none.

        A few at a time, since leases must be renewed and outcomes settled meanwhile.
        """
        quiet = self.quiet(now)[:DRAINED_AT_A_TIME]
        if quiet:
            locked = await self.database(self.store.drained, quiet)
            self.told_at = clock()
            self.flows.told(quiet, locked, now)
        return bool(quiet)

    # -- the end ---------------------------------------------------------------------------
    async def finish(self) -> None:
        """Close the run's books; called with no lane left, or when the run broke down."""
        for task in self.callers.tasks:
            task.cancel()
        self.counts.calls = self.callers.made
        patience = clock() + DATABASE_PATIENCE
        while True:
            try:
                while not self.error and await self.tell_drained(clock()):
                    continue
                self.counts.remaining, flows = await self.database(
                    self.store.close, self.counts, self.error or self.cut_off
                )
                due = any(flow.due_in < PATIENCE_SECONDS for flow in flows)
                if self.successor and self.counts.claimed and due:
                    await self.database(self.successor)
            except DatabaseAway:
                if clock() > patience:
                    raise
                await asyncio.sleep(0.2)
            else:
                return
