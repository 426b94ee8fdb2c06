"""What the store's verbs take and give: plain values, which the event loop and the database thread share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.processor.contract import LaneFacts, Request, Settled
from engine.processor.counts import Counts
from engine.store.claims import Flow
from engine.store.leases import LaneRow, Leased
from providers.base import Usage


@dataclass(slots=True)
class Look:
    """What there is to do, and what was taken and kept of it. `waiting` is None when it was not counted."""

    flows: list[Flow]
    run: int | None
    taken: list[tuple[Leased, LaneFacts]] = field(default_factory=list)
    lanes: dict[int, tuple[LaneRow, LaneFacts]] = field(default_factory=dict)
    renewed: set[int] = field(default_factory=set)
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
    """A lane, or every lane on a token, shut for some seconds; `openings` as `leases.open_breaker` has it."""

    seconds: float
    detail: str
    openings: int = 0
    lane_id: int | None = None
    token_id: int | None = None


@dataclass(slots=True)
class Unsettled:
    """What the callers put down and the store has not written yet.

    `unsent` are requests that certainly did not leave. `faults` are {flow: (one of its requests, what our own
    code raised)}. `spent` is {(lane, unit, tenant): amount}.
    """

    outcomes: list[Settled] = field(default_factory=list)
    unsent: list[Request] = field(default_factory=list)
    stops: dict[tuple[int | None, int | None], Stop] = field(default_factory=dict)
    openings: list[Opening] = field(default_factory=list)
    faults: dict[int, tuple[Request, str]] = field(default_factory=dict)
    usages: dict[tuple[int, str], Usage] = field(default_factory=dict)
    spent: dict[tuple[int, str, int], int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.outcomes or self.unsent or self.stops or self.openings or self.faults or self.usages)

    def requests(self) -> Iterator[Request]:
        yield from (request for request, _ in self.outcomes)
        yield from self.unsent

    def put_back(self, taken: Unsettled) -> None:
        """Take over what could not be written."""
        self.outcomes[:0] = taken.outcomes
        self.unsent[:0] = taken.unsent
        self.openings[:0] = taken.openings
        self.stops = taken.stops | self.stops
        self.faults = taken.faults | self.faults
        self.usages = taken.usages | self.usages
        for key, amount in taken.spent.items():
            self.spent[key] = self.spent.get(key, 0) + amount


@dataclass(slots=True)
class Fed:
    """What was claimed: requests to be planned, how many there were of each (lane, flow), flows now held."""

    requests: list[Request]
    found: dict[tuple[int, int], int]
    held: list[int]
    counts: Counts


@dataclass(slots=True)
class Written:
    """What a settlement wrote. What is locked must be settled later: somebody holds what it needs (`locked`),
    a broadcast for instance, or the row itself."""

    counts: Counts
    locked: list[Settled] = field(default_factory=list)
    held: list[int] = field(default_factory=list)
    rows_locked: list[Settled] = field(default_factory=list)
    unsent_locked: list[Request] = field(default_factory=list)
    stops_locked: list[Stop] = field(default_factory=list)
    openings_locked: list[Opening] = field(default_factory=list)


class Unstorable(Exception):
    """The database refuses a settlement as data."""
