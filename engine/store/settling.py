"""Write what became of requests, so that a row or a flow at fault keeps nobody else's from being written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import structlog
from psycopg import Cursor

from engine.processor.contract import Processor, Request, Settled, Stale
from engine.processor.counts import Counts
from engine.store import leases
from engine.store.claims import Claims
from engine.store.errors import Trouble, trouble
from engine.store.holds import FAULT, hold_flow
from engine.store.isolation import Fault, isolate
from engine.store.locks import OTHERS_WAIT, ROWS_WAIT, Line, unless_locked, wait_at_most
from engine.store.settlements import Settle, Settlement, count, settlement
from engine.store.values import Opening, Stop, Unstorable, Written
from providers.base import Done, Hold, Outcome, Scope

logger = structlog.get_logger(__name__)

UNSTORABLE = "unstorable"


class Settling:
    """The settling of one transaction. `written` says what was written, and what must be written later."""

    def __init__(
        self,
        db: Cursor[Any],
        processor: Processor,
        claims: Claims,
        statement: Settle,
        line: Line,
        *,
        run: int,
    ) -> None:
        self.db = db
        self.processor = processor
        self.claims = claims
        self.statement = statement
        self.line = line
        self.run = run
        self.written = Written(Counts(processor.queue))

    # -- requests --------------------------------------------------------------------------
    def settle(self, pairs: Sequence[Settled]) -> None:
        """Settle in id order, whole where it can be; a row or a flow at fault apart from the others."""
        if not pairs:
            return
        wait_at_most(self.db, ROWS_WAIT)
        faults = self._write_apart(sorted(pairs, key=_row), by=_flow)
        passed_over = self.written.rows_locked
        row = self.line.wait(self.db, {pair[0].id for pair in passed_over}, "settling")
        if row is not None:
            self.written.rows_locked = [pair for pair in passed_over if pair[0].id != row]
            faults += self._write_apart([pair for pair in passed_over if pair[0].id == row], by=_flow)
        for fault in faults:
            self._settle_fault(fault)

    def put_back(self, requests: Sequence[Request]) -> None:
        """Put back what did not leave, but for rows that somebody holds just now."""
        if not requests:
            return
        given = self.claims.give_back(self.db, run=self.run, requests=requests)
        locked: set[int] = set()
        if given < len(requests):
            locked = self.claims.still_mine(self.db, run=self.run, ids=[request.id for request in requests])
            if (row := self.line.wait(self.db, locked, "giving back")) is not None:
                one = [request for request in requests if request.id == row]
                self.claims.give_back(self.db, run=self.run, requests=one)
                locked.discard(row)
        self.written.counts.given_back += len(requests) - len(locked)
        self.written.unsent_locked += [request for request in requests if request.id in locked]

    def hold(self, request: Request, detail: str) -> None:
        """Hold the flow of a request over which the application's code raised."""
        logger.error("a flow is held", processor=self.processor.name, flow=request.flow, error=detail)
        hold_flow(self.processor, request, reason=FAULT, detail=detail)
        self.written.held.append(request.flow)

    def _write_apart(self, pairs: Sequence[Settled], *, by: Callable[[Settled], int]) -> list[Fault[Settled]]:
        """Write in parts, each in a savepoint; returns those that failed, told apart `by` flow or row."""
        result = isolate(pairs, by, lambda part: self._write(part, learns=True))
        for _, (counts, locked) in result.done:
            self.written.counts.add(counts)
            self.written.rows_locked += locked
        self.written.locked += result.locked
        return result.faults

    def _write(self, pairs: Sequence[Settled], *, learns: bool) -> tuple[Counts, list[Settled]]:
        """Write a part's settlements, and let the application learn from those that were its to decide.

        Returns the pairs whose row somebody holds just now beside the counts: they are settled later.
        """
        counts = Counts(self.processor.queue)
        rows = [settlement(self.processor, request, outcome) for request, outcome in pairs]
        try:
            found = self.statement.write_free(self.db, run=self.run, settlements=rows)
        except Exception as error:
            if trouble(error) is Trouble.REFUSED:
                raise Unstorable from error
            raise
        passed_over = [row.id for row in rows if row.id not in found]
        mine = self.claims.still_mine(self.db, run=self.run, ids=passed_over) if passed_over else set()
        locked = [pair for pair in pairs if pair[0].id in mine]
        both = [(row, outcome) for row, (_, outcome) in zip(rows, pairs, strict=True) if row.id not in mine]
        count(self.processor, both, counts)
        told = [pair for pair in pairs if found.get(pair[0].id)]
        counts.overtaken = len(both) - len(told)
        if learns and told:
            wait_at_most(self.db, OTHERS_WAIT)
            counts.decided = self.processor.learn(told)
            self._hold_flows(told)
            wait_at_most(self.db, ROWS_WAIT)
        return counts, locked

    def _hold_flows(self, told: Sequence[Settled]) -> None:
        """Hold the flows that the vendor wants held."""
        held: set[int] = set()
        for request, outcome in told:
            if isinstance(outcome, Hold) and outcome.scope is Scope.FLOW and request.flow not in held:
                held.add(request.flow)
                hold_flow(
                    self.processor, request, reason=outcome.reason, code=outcome.code, detail=outcome.detail
                )

    # -- what fails ------------------------------------------------------------------------
    def _settle_fault(self, fault: Fault[Settled]) -> None:
        """Settle the rows of a flow that failed: row by row, or without what the application would learn."""
        if isinstance(fault.error, Unstorable):
            single = self._write_apart(fault.rows, by=_row)
            if not single:
                return
            odd = [pair for one in single for pair in one.rows]
            if isinstance(single[0].error, Unstorable):
                self._write_unstorable(odd, fault.detail)
                return
            fault = Fault(fault.flow, odd, single[0].error)
        requests = [request for request, _ in fault.rows]
        if self.processor.stale is Stale.IN_DOUBT:  # what was sent is written down, whatever else fails
            counts, locked = self._write(fault.rows, learns=False)
            self.written.counts.add(counts)
            self.written.rows_locked += locked
        else:  # what a reply taught is not lost: it is asked for again once the flow goes on
            self.put_back(requests)
        self.hold(requests[0], fault.detail)

    def _write_unstorable(self, pairs: Sequence[Settled], why: str) -> None:
        """Settle rows whose outcome the database refuses: the vendor said something that fits no column."""
        detail = f"the vendor's answer cannot be stored: {why}"
        rows = [self._unstorable(request, outcome, detail) for request, outcome in pairs]
        self.statement.write(self.db, run=self.run, settlements=rows)
        in_doubt = sum(row.state == "in_doubt" for row in rows)
        self.written.counts.in_doubt += in_doubt
        self.written.counts.failed += len(rows) - in_doubt
        logger.error("outcomes cannot be stored", rows=[row.id for row in rows], why=why)

    def _unstorable(self, request: Request, outcome: Outcome, detail: str) -> Settlement:
        used = request.attempts + 1
        if self.processor.stale is Stale.IN_DOUBT and isinstance(outcome, Done):
            return Settlement(request.id, "in_doubt", None, used, UNSTORABLE, detail)
        return Settlement(request.id, self.processor.failed_state, None, used, UNSTORABLE, detail)

    # -- lanes -----------------------------------------------------------------------------
    def stop(self, stop: Stop) -> None:
        if not unless_locked(self.db, partial(leases.stop_lanes, self.db, **asdict(stop))):
            self.written.stops_locked.append(stop)

    def open(self, opening: Opening) -> None:
        if not unless_locked(self.db, partial(leases.open_breaker, self.db, **asdict(opening))):
            self.written.openings_locked.append(opening)


def _row(pair: Settled) -> int:
    return pair[0].id


def _flow(pair: Settled) -> int:
    return pair[0].flow
