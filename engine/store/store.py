"""A run's hands on the tables: each verb is one transaction of the runner's one database thread.

What they take and return are plain values, so the event loop never waits for a query that it did not ask for,
and a verb can be done again after a deadlock or a lost acknowledgement.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from psycopg import Cursor

from engine.processor.contract import LaneFacts, Processor, Request
from engine.processor.counts import Counts
from engine.store import allowances, leases
from engine.store.allowances import Held, Spent
from engine.store.claims import Claims, Flow, Want
from engine.store.facts import open_lane
from engine.store.isolation import isolate
from engine.store.leases import LaneRow, Leased, Pace
from engine.store.locks import OTHERS_WAIT, Line, wait_at_most
from engine.store.recovery import free_dead
from engine.store.runs import close_run, open_run, write_run
from engine.store.session import cursor
from engine.store.settlements import Settle
from engine.store.settling import Settling
from engine.store.values import Fed, Look, Unsettled, Written
from engine.watch.incidents import open_incident
from providers.base import ProviderError
from tenants.models import ProviderToken
from tenants.secrets import SecretUnreadable

MOST_COUNTED = 1_000_000
DEPTH_CAP = 5_001
"""Counting further would not change the batch size."""


class Store:
    """One run's view of its queue's tables."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.claims = Claims(processor)
        self.statement = Settle(processor)
        self.line = Line(self.claims)
        self.run: int | None = None

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
        settling = self._settling()
        requests = self.claims.claim(settling.db, run=settling.run, wanted=wanted)
        found: dict[tuple[int, int], int] = {}
        for request in requests:
            key = request.lane_id, request.flow
            found[key] = found.get(key, 0) + 1
        prepared = isolate(requests, _flow, self.processor.prepare)
        settling.put_back([*prepared.locked, *(row for fault in prepared.faults for row in fault.rows)])
        for fault in prepared.faults:
            settling.hold(fault.rows[0], fault.detail)
        outcomes = {row: outcome for _, part in prepared.done for row, outcome in part.items()}
        going = [request for part, _ in prepared.done for request in part]
        settling.settle([(request, outcomes[request.id]) for request in going if request.id in outcomes])
        written = settling.written
        settling.put_back([request for request, _ in written.locked])
        written.counts.claimed = len(requests)
        written.counts.done = 0  # ended, but nobody was called
        return Fed([r for r in going if r.id not in outcomes], found, written.held, written.counts)

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
            if (row := self.line.wait(db, mine, "marking")) is not None:
                one = [request for request in requests if request.id == row]
                marked |= self.claims.mark(db, run=self.run, requests=one)
        return marked, granted

    def settle(self, taken: Unsettled, held: Mapping[Held, int]) -> Written:
        """Write outcomes and what follows from them; `held` is what the lanes hold of allowances from now on.

        All or nothing, but for flows that fail by themselves and for what is locked. Changes nothing in
        `taken`, so that it can be done again.
        """
        settling = self._settling()
        settling.put_back(taken.unsent)
        settling.settle(taken.outcomes)
        for request, error in taken.faults.values():
            settling.hold(request, error)
        for stop in taken.stops.values():
            settling.stop(stop)
        for opening in taken.openings:
            settling.open(opening)
        if taken.spent:
            spent = [Spent(lane, unit, tenant, n) for (lane, unit, tenant), n in taken.spent.items()]
            allowances.spend(settling.db, spent=spent, held=held)
        allowances.correct(settling.db, taken.usages)
        return settling.written

    def _settling(self) -> Settling:
        assert self.run is not None
        return Settling(cursor(), self.processor, self.claims, self.statement, self.line, run=self.run)

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
        wait_at_most(db, OTHERS_WAIT)
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
