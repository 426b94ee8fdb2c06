"""The half of a run that works the database: everything here runs in the runner's one database thread.

Each function is one transaction. What they return is plain values, so that the event loop never waits
for a query that it did not ask for.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from django.utils import timezone

from engine.models import Run
from engine.processor.contract import Item, Processor, Report, Settled, Stale
from engine.run.runtime import cursor
from engine.store import leases
from engine.store.claims import Claims, Flow, Settlement
from engine.store.leases import Kept, Leased
from engine.store.outcomes import settlement
from providers.base import Done

DEPTH_CAP = 5_001
"""Counting further would not change the batch size."""
MOST_COUNTED = 1_000_000
COUNTED = [
    "claimed",
    "done",
    "continued",
    "retried",
    "throttled",
    "failed",
    "in_doubt",
    "held",
    "given_back",
    "overtaken",
    "calls",
]


@dataclass(slots=True)
class Look:
    """What there is to do, and what was taken and kept of it."""

    flows: list[Flow]
    taken: list[Leased] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    runnable: set[int] = field(default_factory=set)
    waiting: int | None = None
    in_hand: int = 0


@dataclass(slots=True, frozen=True)
class Stop:
    """A lane, or every lane on a token, that a person must resume."""

    reason: str
    detail: str
    lane_id: int | None = None
    token_id: int | None = None


@dataclass(slots=True, frozen=True)
class Opening:
    """A lane, or every lane on a token, shut for some seconds."""

    seconds: float
    detail: str
    lane_id: int | None = None
    token_id: int | None = None


@dataclass(slots=True)
class Unsettled:
    """What the callers put down and the ledger has not written yet: outcomes, rows that certainly did not
    leave, and what the vendor holds back."""

    outcomes: list[Settled] = field(default_factory=list)
    unsent: list[Item] = field(default_factory=list)
    stops: dict[tuple[int | None, int | None], Stop] = field(default_factory=dict)
    openings: list[Opening] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.unsent or self.stops or self.openings)

    def items(self) -> Iterator[Item]:
        yield from (item for item, _ in self.outcomes)
        yield from self.unsent

    def put_back(self, taken: Unsettled) -> None:
        """Take over what could not be written."""
        self.outcomes[:0] = taken.outcomes
        self.unsent[:0] = taken.unsent
        self.openings[:0] = taken.openings
        self.stops = taken.stops | self.stops


class Ledger:
    """One run's view of its queue's tables."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.claims = Claims(processor)
        self.run: int | None = None

    def look(
        self,
        *,
        held: Mapping[int, float | None],
        in_hand: Sequence[int],
        renew: bool,
        most_lanes: int,
        depth: bool,
        report: Report,
    ) -> Look:
        """See what is due, free what dead runs hold, take lanes, keep those held.

        `held` is {lane: its rate now}, `in_hand` the flows whose rows the runner has.
        """
        db = cursor()
        free_dead(self.processor)
        look = Look(self.claims.flows(db))
        due = {flow.lane_id for flow in look.flows if flow.due_in <= 0}
        if most_lanes and (wanted := leases.available(db, lane_ids=sorted(due - held.keys()))):
            look.taken = leases.acquire(db, run=self._open_run(look.flows), lane_ids=wanted, most=most_lanes)
            if look.taken:
                self.claims.recover(db, lanes=[lane.id for lane in look.taken], run=self.run)
        if renew and held and self.run is not None:
            look.kept = leases.renew(db, run=self.run, rates=held)
            self._write_run(report)
        if in_hand:
            look.runnable = self.claims.still_runnable(db, in_hand)
        if depth:
            look.waiting = self.claims.waiting(
                db, look.flows, most=max(1_001, DEPTH_CAP // max(len(look.flows), 1))
            )
        if not look.flows and not held:
            look.in_hand = self.claims.in_hand(db)
        return look

    def feed(self, wanted: Sequence[tuple[int, int, int]], report: Report) -> tuple[list[Item], list[Item]]:
        """Claim rows and check them once more. Returns (to be planned, closed without a call)."""
        assert self.run is not None
        db = cursor()
        items = self.claims.claim(db, run=self.run, wanted=wanted)
        report.claimed += len(items)
        refused = self.processor.prepare(items) if items else {}
        if refused:
            closed = [Settlement(row, state, detail=reason) for row, (state, reason) in refused.items()]
            self.claims.settle(db, run=self.run, settlements=closed)
        return [i for i in items if i.id not in refused], [i for i in items if i.id in refused]

    def mark(self, items: Sequence[Item], reserve: Mapping[int, int]) -> tuple[set[int], dict[int, int]]:
        """Take calls from the allowances, and commit that these rows' calls may be out."""
        assert self.run is not None
        db = cursor()
        granted = leases.reserve(db, run=self.run, calls=reserve) if reserve else {}
        marked = self.claims.mark(db, run=self.run, items=items) if items else set()
        return marked, granted

    def settle(self, taken: Unsettled, report: Report) -> int:
        """Write outcomes and what follows from them, all or nothing. Returns how many rows were overtaken."""
        assert self.run is not None
        db = cursor()
        if taken.unsent:
            self.claims.give_back(db, run=self.run, ids=[item.id for item in taken.unsent])
            report.given_back += len(taken.unsent)
        settlements = [settlement(self.processor, item, outcome, report) for item, outcome in taken.outcomes]
        settled = self.claims.settle(db, run=self.run, settlements=settlements) if settlements else 0
        for stop in taken.stops.values():
            leases.stop_lanes(db, **asdict(stop))
        for opening in taken.openings:
            leases.open_breaker(db, **asdict(opening))
        remarkable = [pair for pair in taken.outcomes if not isinstance(pair[1], Done)]
        if remarkable:
            self.processor.attend(remarkable)
        return len(settlements) - settled

    def release(self, lanes: Sequence[tuple[int, float | None, int, float]]) -> None:
        assert self.run is not None
        leases.release(cursor(), run=self.run, lanes=lanes)

    def drained(self, flows: Sequence[int]) -> None:
        self.processor.drained(flows)

    def close(self, report: Report, error: str) -> tuple[int, list[Flow]]:
        """End the run truthfully. Returns how many rows are left, and in which flows."""
        db = cursor()
        flows = self.claims.flows(db)
        left = self.claims.waiting(db, flows, most=MOST_COUNTED) + self.claims.in_hand(db)
        if self.run is not None:
            state = Run.State.FAILED if error else Run.State.DONE
            self._write_run(
                report, state=state, ended_at=timezone.now(), error=error[:2000], queue_after=left
            )
        return left, flows

    def waiting(self) -> int:
        """Count what is left to do."""
        db = cursor()
        return self.claims.waiting(db, self.claims.flows(db), most=MOST_COUNTED) + self.claims.in_hand(db)

    def _open_run(self, flows: Sequence[Flow]) -> int:
        if self.run is None:
            before = self.claims.waiting(cursor(), flows, most=MOST_COUNTED)
            process = f"{socket.gethostname()}:{os.getpid()}"
            self.run = Run.objects.create(queue=self.processor.queue, process=process, queue_before=before).pk
        return self.run

    def _write_run(self, report: Report, **changes: object) -> None:
        counts = {name: getattr(report, name) for name in COUNTED}
        assert self.run is not None
        Run.objects.filter(pk=self.run).update(
            beat_at=timezone.now(), lanes=report.lanes, batch_size=report.batch_size, **counts, **changes
        )


def free_dead(processor: Processor) -> tuple[int, int]:
    """Free the lanes of runs that died, see to their rows, close the runs. Returns (given back, in doubt)."""
    db = cursor()
    expired = leases.free_expired(db, queue=processor.queue)
    if not expired:
        return 0, 0
    dead = sorted(set(expired.values()))
    counts = Claims(processor).recover(db, lanes=list(expired))
    Run.objects.filter(pk__in=dead, state=Run.State.RUNNING).update(
        state=Run.State.LOST,
        ended_at=timezone.now(),
        error="the process died; what it had claimed went back, what it may have sent is "
        + ("in doubt" if processor.stale is Stale.IN_DOUBT else "looked at again"),
    )
    return counts
