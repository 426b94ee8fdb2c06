"""A run's hands on the tables: each verb is one transaction of the runner's one database thread.

What they take and return are plain values, so the event loop never waits for a query that it did not ask for,
and a verb can be done again after a deadlock or a lost acknowledgement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from random import choice
from time import monotonic
from typing import Any

import psycopg
import structlog
from django.db import transaction
from psycopg import Cursor

from engine.processor.contract import LaneFacts, Processor, Request, Settled, Stale
from engine.processor.counts import Counts
from engine.store import allowances, leases
from engine.store.allowances import Held, Spent
from engine.store.claims import Claims, Flow, Want
from engine.store.errors import Trouble, trouble
from engine.store.facts import open_lane
from engine.store.holds import FAULT, hold_flow
from engine.store.isolation import Fault, isolate
from engine.store.leases import LaneRow, Leased, Pace
from engine.store.recovery import free_dead
from engine.store.runs import close_run, open_run, write_run
from engine.store.session import cursor
from engine.store.settlements import Settle, Settlement, count, settlement
from engine.store.values import Fed, Look, Unsettled, Unstorable, Written
from engine.watch.incidents import open_incident
from providers.base import Done, Hold, Outcome, ProviderError, Scope
from tenants.models import ProviderToken
from tenants.secrets import SecretUnreadable

logger = structlog.get_logger(__name__)

MOST_COUNTED = 1_000_000
DEPTH_CAP = 5_001
"""Counting further would not change the batch size."""
ROWS_WAIT, OTHERS_WAIT = "2s", "100ms"
"""How long a statement waits for a locked row: its own requests', which others hold for a moment only, and
those that an application's code wants, which a person may hold."""
WAITS_EVERY = 1.0
"""Seconds between two waits for a row that was passed over."""
UNSTORABLE = "unstorable"


class Store:
    """One run's view of its queue's tables."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.claims = Claims(processor)
        self.settles = Settle(processor)
        self.run: int | None = None
        self.waited_at: dict[str, float] = {}

    # -- looking ---------------------------------------------------------------------------
    def look(
        self,
        *,
        paces: Mapping[int, Pace],
        in_hand: Sequence[int],
        renew: bool,
        most_lanes: int,
        depth: bool,
        counts: Counts,
    ) -> Look:
        """See what is due, free what dead runs hold, take lanes, read and keep those held.

        `paces` are of the lanes held, `in_hand` the flows whose rows the runner has.
        """
        db = cursor()
        free_dead(self.processor, run=self.run)
        flows = self.claims.flows(db)
        due = {flow.lane_id for flow in flows if flow.due_in <= 0}
        look = Look(flows, self.run)
        wanted = sorted(due - paces.keys())
        if most_lanes and wanted and (wanted := self._available(db, wanted)):
            look.run = self.run = self._open_run(db, flows)
            look.taken = self._take(db, wanted[:most_lanes])
        if renew and self.run is not None:
            write_run(self.run, counts)
        if paces and self.run is not None:
            if renew:
                look.renewed = leases.renew(db, run=self.run, paces=paces)
            for row in leases.read(db, run=self.run, lane_ids=list(paces)):
                if facts := self._open(db, row):
                    look.lanes[row.id] = (row, facts)
        if in_hand:
            look.runnable = self.claims.still_runnable(db, in_hand)
        if depth:
            most = max(1_001, DEPTH_CAP // max(len(flows), 1))
            look.waiting = self.claims.waiting(db, flows, most=most)
        if not flows and not paces:
            look.in_hand = self.claims.in_hand(db)
        return look

    def _available(self, db: Cursor[Any], lane_ids: Sequence[int]) -> list[int]:
        return leases.available(db, processor=self.processor.name, run=self.run, lane_ids=lane_ids)

    def _take(self, db: Cursor[Any], wanted: Sequence[int]) -> list[tuple[Leased, LaneFacts]]:
        assert self.run is not None
        taken = leases.acquire(
            db, processor=self.processor.name, run=self.run, lane_ids=wanted, most=len(wanted)
        )
        if not taken:
            return []
        ids = [leased.row.id for leased in taken]
        self.claims.recover(db, lanes=ids)
        allowances.forfeit(db, lanes=ids)
        opened = [(leased, self._open(db, leased.row)) for leased in taken]
        return [(leased, facts) for leased, facts in opened if facts]

    def _open(self, db: Cursor[Any], row: LaneRow) -> LaneFacts | None:
        """Open a lane's token; one that cannot be opened stops the lanes on it, and nobody else's."""
        try:
            return open_lane(row)
        except (SecretUnreadable, ProviderError) as error:
            why = str(error)
        leases.stop_lanes(db, reason="token", detail=why, token_id=row.token_id)
        ProviderToken.objects.filter(pk=row.token_id).update(
            state=ProviderToken.State.FAILING, last_error=why
        )
        open_incident(
            tenant_id=row.tenant_id,
            kind="token",
            scope=f"token:{row.token_id}",
            summary=f"the token of {row.name} cannot be used: {why}",
            severity="critical",
        )
        return None

    def _open_run(self, db: Cursor[Any], flows: Sequence[Flow]) -> int:
        if self.run is not None:
            return self.run
        waiting = self.claims.waiting(db, flows, most=MOST_COUNTED)
        return open_run(queue=self.processor.queue, processor=self.processor.name, waiting=waiting)

    # -- the life of a request -------------------------------------------------------------
    def feed(self, wanted: Sequence[Want]) -> Fed:
        """Claim requests and let the application check them once more; some are settled without a call."""
        assert self.run is not None
        db = cursor()
        counts = Counts(self.processor.queue)
        requests = self.claims.claim(db, run=self.run, wanted=wanted)
        counts.claimed = len(requests)
        found: dict[tuple[int, int], int] = {}
        for request in requests:
            key = request.lane_id, request.flow
            found[key] = found.get(key, 0) + 1
        prepared = isolate(requests, _flow, self.processor.prepare)
        self._put_back(
            db, [*prepared.locked, *(row for fault in prepared.faults for row in fault.rows)], counts
        )
        for fault in prepared.faults:
            self._hold_fault(fault.rows[0], fault.detail)
        outcomes = {row: outcome for _, part in prepared.done for row, outcome in part.items()}
        going = [request for part, _ in prepared.done for request in part]
        closed = [(request, outcomes[request.id]) for request in going if request.id in outcomes]
        written = self._settle(db, closed)
        self._put_back(db, [request for request, _ in written.locked], counts)
        written.counts.done = 0  # ended, but nobody was called
        counts.add(written.counts)
        held = [*(fault.flow for fault in prepared.faults), *written.held]
        return Fed([r for r in going if r.id not in outcomes], found, held, counts)

    def mark(
        self, requests: Sequence[Request], wanted: Mapping[Held, int], held: Mapping[Held, int]
    ) -> tuple[set[int], dict[Held, int | None]]:
        """Reserve what the calls cost, and commit that these requests may be out."""
        assert self.run is not None
        db = cursor()
        granted = allowances.reserve(db, run=self.run, wanted=wanted, held=held) if wanted else {}
        marked = self.claims.mark(db, run=self.run, requests=requests)
        if left := [request.id for request in requests if request.id not in marked]:
            mine = self.claims.still_mine(db, run=self.run, ids=left)
            if (row := self._waited_for(db, mine, "marking")) is not None:
                one = [request for request in requests if request.id == row]
                marked |= self.claims.mark(db, run=self.run, requests=one)
        return marked, granted

    def settle(self, taken: Unsettled, held: Mapping[Held, int]) -> Written:
        """Write outcomes and what follows from them; `held` is what the lanes hold of allowances from now on.

        All or nothing, but for flows that fail by themselves and for what is locked. Changes nothing in
        `taken`, so that it can be done again.
        """
        assert self.run is not None
        db = cursor()
        counts = Counts(self.processor.queue)
        unsent_locked = self._put_back(db, taken.unsent, counts)
        written = self._settle(db, taken.outcomes)
        written.unsent_locked += unsent_locked
        written.counts.add(counts)
        for request, error in taken.faults.values():
            self._hold_fault(request, error)
        for stop in taken.stops.values():
            if not self._unless_locked(db, partial(leases.stop_lanes, db, **asdict(stop))):
                written.stops_locked.append(stop)
        for opening in taken.openings:
            if not self._unless_locked(db, partial(leases.open_breaker, db, **asdict(opening))):
                written.openings_locked.append(opening)
        if taken.spent:
            spent = [Spent(lane, unit, tenant, n) for (lane, unit, tenant), n in taken.spent.items()]
            allowances.spend(db, spent=spent, held=held)
        allowances.correct(db, taken.usages)
        return written

    def _settle(self, db: Cursor[Any], pairs: Sequence[Settled]) -> Written:
        """Settle in id order, whole where it can be; a row or a flow at fault apart from the others."""
        written = Written(Counts(self.processor.queue))
        if not pairs:
            return written
        pairs = sorted(pairs, key=lambda pair: pair[0].id)
        db.execute(f"SET LOCAL lock_timeout = '{ROWS_WAIT}'")
        result = isolate(pairs, lambda pair: pair[0].flow, lambda part: self._write(db, part, learns=True))
        for _, (counts, locked) in result.done:
            written.counts.add(counts)
            written.rows_locked += locked
        row = self._waited_for(db, {pair[0].id for pair in written.rows_locked}, "settling")
        if row is not None:
            one = [pair for pair in written.rows_locked if pair[0].id == row]
            written.rows_locked = [pair for pair in written.rows_locked if pair[0].id != row]
            again = isolate(one, lambda pair: pair[0].flow, lambda part: self._write(db, part, learns=True))
            for _, (counts, locked) in again.done:
                written.counts.add(counts)
                written.rows_locked += locked
            result.locked += again.locked
            result.faults += again.faults
        written.locked = result.locked
        for fault in result.faults:
            self._settle_fault(db, fault, written)
        return written

    def _write(
        self, db: Cursor[Any], pairs: Sequence[Settled], *, learns: bool
    ) -> tuple[Counts, list[Settled]]:
        """Write a part's settlements, and let the application learn from those that were its to decide.

        Returns the pairs whose row somebody holds just now beside the counts: they are settled later.
        """
        assert self.run is not None
        counts = Counts(self.processor.queue)
        rows = [settlement(self.processor, request, outcome) for request, outcome in pairs]
        try:
            found = self.settles.write_free(db, run=self.run, settlements=rows)
        except Exception as error:
            if trouble(error) is Trouble.REFUSED:
                raise Unstorable from error
            raise
        passed_over = [row.id for row in rows if row.id not in found]
        mine = self.claims.still_mine(db, run=self.run, ids=passed_over) if passed_over else set()
        locked = [pair for pair in pairs if pair[0].id in mine]
        both = [(row, outcome) for row, (_, outcome) in zip(rows, pairs, strict=True) if row.id not in mine]
        count(self.processor, both, counts)
        told = [pair for pair in pairs if found.get(pair[0].id)]
        counts.overtaken = len(both) - len(told)
        if learns and told:
            db.execute(f"SET LOCAL lock_timeout = '{OTHERS_WAIT}'")
            counts.decided = self.processor.learn(told)
            self._hold_flows(told)
            db.execute(f"SET LOCAL lock_timeout = '{ROWS_WAIT}'")
        return counts, locked

    def _unless_locked(self, db: Cursor[Any], work: Callable[[], object]) -> bool:
        """Do what locks a lane's row, unless somebody holds that; says whether it was done."""
        try:
            with transaction.atomic():
                db.execute(f"SET LOCAL lock_timeout = '{OTHERS_WAIT}'")
                work()
                db.execute(f"SET LOCAL lock_timeout = '{ROWS_WAIT}'")
        except psycopg.errors.LockNotAvailable:
            return False
        return True

    def _hold_flows(self, told: Sequence[Settled]) -> None:
        held: set[int] = set()
        for request, outcome in told:
            if isinstance(outcome, Hold) and outcome.scope is Scope.FLOW and request.flow not in held:
                held.add(request.flow)
                hold_flow(
                    self.processor, request, reason=outcome.reason, code=outcome.code, detail=outcome.detail
                )

    def _settle_fault(self, db: Cursor[Any], fault: Fault[Settled], written: Written) -> None:
        """Settle the rows of a flow that failed: row by row, or without what the application would learn."""
        if isinstance(fault.error, Unstorable):
            single = isolate(
                fault.rows, lambda pair: pair[0].id, lambda part: self._write(db, part, learns=True)
            )
            for _, (counts, locked) in single.done:
                written.counts.add(counts)
                written.rows_locked += locked
            written.locked.extend(single.locked)
            odd = [pair for one in single.faults for pair in one.rows]
            if odd and isinstance(single.faults[0].error, Unstorable):
                written.counts.add(self._write_unstorable(db, odd, fault.detail))
                return
            if not odd:
                return
            fault = Fault(fault.flow, odd, single.faults[0].error)
        requests = [request for request, _ in fault.rows]
        if self.processor.stale is Stale.IN_DOUBT:  # what was sent is written down, whatever else fails
            counts, locked = self._write(db, fault.rows, learns=False)
            written.counts.add(counts)
            written.rows_locked += locked
        else:  # what a reply taught is not lost: it is asked for again once the flow goes on
            written.unsent_locked += self._put_back(db, requests, written.counts)
        self._hold_fault(requests[0], fault.detail)
        written.held.append(fault.flow)

    def _write_unstorable(self, db: Cursor[Any], pairs: Sequence[Settled], why: str) -> Counts:
        """Settle rows whose outcome the database refuses: the vendor said something that fits no column."""
        assert self.run is not None
        detail = f"the vendor's answer cannot be stored: {why}"
        rows = [self._unstorable(request, outcome, detail) for request, outcome in pairs]
        self.settles.write(db, run=self.run, settlements=rows)
        counts = Counts(self.processor.queue)
        counts.in_doubt = sum(row.state == "in_doubt" for row in rows)
        counts.failed = len(rows) - counts.in_doubt
        logger.error("outcomes cannot be stored", rows=[row.id for row in rows], why=why)
        return counts

    def _unstorable(self, request: Request, outcome: Outcome, detail: str) -> Settlement:
        used = request.attempts + 1
        if self.processor.stale is Stale.IN_DOUBT and isinstance(outcome, Done):
            return Settlement(request.id, "in_doubt", None, used, UNSTORABLE, detail)
        return Settlement(request.id, self.processor.failed_state, None, used, UNSTORABLE, detail)

    def _put_back(self, db: Cursor[Any], requests: Sequence[Request], counts: Counts) -> list[Request]:
        """Put back what did not leave; returns those whose row somebody holds just now."""
        assert self.run is not None
        if not requests:
            return []
        given = self.claims.give_back(db, run=self.run, requests=requests)
        locked: set[int] = set()
        if given < len(requests):
            locked = self.claims.still_mine(db, run=self.run, ids=[request.id for request in requests])
            if (row := self._waited_for(db, locked, "giving back")) is not None:
                one = [request for request in requests if request.id == row]
                self.claims.give_back(db, run=self.run, requests=one)
                locked.discard(row)
        counts.given_back += len(requests) - len(locked)
        return [request for request in requests if request.id in locked]

    def _waited_for(self, db: Cursor[Any], locked: Collection[int], why: str) -> int | None:
        """Stand in line for one of these rows, briefly and once a second; returns it when it was got.

        A row that others lock again and again would be passed over for ever.
        """
        if not locked or monotonic() - self.waited_at.get(why, 0.0) < WAITS_EVERY:
            return None
        self.waited_at[why] = monotonic()
        row = choice(sorted(locked))
        return row if self._unless_locked(db, partial(self.claims.wait_for, db, row)) else None

    def _hold_fault(self, request: Request, detail: str) -> None:
        logger.error("a flow is held", processor=self.processor.name, flow=request.flow, error=detail)
        hold_flow(self.processor, request, reason=FAULT, detail=detail)

    # -- the rest --------------------------------------------------------------------------
    def strays(self, lanes: Sequence[int], known: Collection[int]) -> int:
        """After a lost connection: give back what was claimed without our knowing."""
        if self.run is None or not lanes:
            return 0
        return self.claims.strays(cursor(), run=self.run, lanes=lanes, known=known)

    def release(self, paces: Mapping[int, Pace]) -> set[int]:
        """Let go of lanes of which nothing is under way; returns those whose row somebody holds just now."""
        assert self.run is not None
        db = cursor()
        allowances.give_back(db, lanes=list(paces))
        return leases.release(db, run=self.run, paces=paces)

    def drained(self, flows: Sequence[int]) -> list[int]:
        """Tell the application of flows that have nothing left; returns those to be told again later."""
        db = cursor()
        db.execute(f"SET LOCAL lock_timeout = '{OTHERS_WAIT}'")
        result = isolate(flows, int, self.processor.drained)
        return result.locked

    def close(self, counts: Counts, error: str) -> tuple[int, list[Flow]]:
        """End the run truthfully. Returns how many rows are left, and in which flows."""
        db = cursor()
        flows = self.claims.flows(db)
        left = self.claims.waiting(db, flows, most=MOST_COUNTED) + self.claims.in_hand(db)
        if self.run is not None:
            close_run(self.run, counts, error=error, left=left)
        return left, flows

    def waiting(self) -> int:
        """Count what is left to do."""
        db = cursor()
        return self.claims.waiting(db, self.claims.flows(db), most=MOST_COUNTED) + self.claims.in_hand(db)


def _flow(request: Request) -> int:
    return request.flow
