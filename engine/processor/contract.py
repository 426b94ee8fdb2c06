"""What a queue is to the engine: one class with a handful of attributes and pure functions.

To add a queue, write a `Processor`, register it in its app's `ready()`, and the runner drives it. The
three kinds of call differ by these attributes alone: a message (one row a call, `Stale.IN_DOUBT`), a page
of comments (hundreds of rows a call, `Stale.GIVE_BACK`), a vendor's run (begun by one call and finished by
later ones, `Pending`, `Stale.LOOK_AGAIN`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from math import inf
from random import uniform
from typing import Any, ClassVar, Protocol
from uuid import UUID

from engine.models import QueueItem
from providers.base import Call, Outcome, Response, Throttled


class Stale(Enum):
    """What becomes of a row whose runner died while its call may have been under way."""

    GIVE_BACK = "a read: back to the queue"
    IN_DOUBT = "a send: nobody can know, so never by itself again"
    LOOK_AGAIN = "begins something: back to the queue with its attempt, so that the plan looks for it first"


@dataclass(slots=True, eq=False)
class Item:
    """One claimed row. `columns` holds what the processor asked for; `attempt` names the call to be made.

    `attempts` counts those used up so far. `seen_before` is true when an earlier runner may have made a
    call for this row under the same `attempt` (`Stale.LOOK_AGAIN`).
    """

    id: int
    tenant_id: int
    lane_id: int
    flow: int
    attempts: int
    attempt: UUID | None
    columns: Mapping[str, Any]
    seen_before: bool = False


@dataclass(slots=True, eq=False)
class Planned:
    """A call and the rows that it may settle. `note` is the processor's own, e.g. which page this is."""

    call: Call
    items: Sequence[Item]
    note: Any = None


@dataclass(slots=True, frozen=True)
class LaneFacts:
    """What a plan may know of the lane that its calls will leave by."""

    id: int
    tenant_id: int
    token_id: int
    name: str


Settled = tuple[Item, Outcome]


class Processor(ABC):
    """A queue whose rows are settled by a vendor's replies.

    The pure part is `plan` and `interpret`. `prepare`, `attend` and `drained` run in the runner's one
    database thread, where the ORM may be used and the network may not.
    """

    queue: ClassVar[str]
    model: ClassVar[type[QueueItem]]

    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of the row that the plan needs."""
    results: ClassVar[Mapping[str, str]] = {}
    """Columns that an outcome's `fields` may set, with their SQL types. A missing one is left alone."""
    flow: ClassVar[str] = "tenant_id"
    """Column by which a lane's rows are shared out fairly, and by which they can be stopped at once."""
    runnable: ClassVar[str] = "TRUE"
    """SQL condition over the bigint `flow`: may its rows be claimed now?"""
    rows_per_call: ClassVar[int] = 1
    stale: ClassVar[Stale] = Stale.GIVE_BACK
    retry_delays: ClassVar[tuple[timedelta, ...]] = (timedelta(seconds=5), timedelta(seconds=10))
    """How long to wait before each further attempt; after the last one the row has failed."""
    done_state: ClassVar[str] = "done"
    failed_state: ClassVar[str] = "failed"
    done_stamp: ClassVar[str | None] = None
    """Column that takes the time at which a row was done."""
    failed_stamp: ClassVar[str | None] = None

    def prepare(self, items: Sequence[Item]) -> Mapping[int, tuple[str, str]]:
        """Load what `plan` needs, and check once more what may not be called for.

        Returns {row id: (state, reason)} for rows to be closed without a call.
        """
        return {}

    @abstractmethod
    def plan(self, lane: LaneFacts, items: Sequence[Item]) -> Sequence[Planned]:
        """Turn claimed rows into calls. Every item must be in one of them."""

    @abstractmethod
    def interpret(self, planned: Planned, response: Response) -> Iterable[Settled | Planned]:
        """Say what the reply means for the rows: an outcome each, or a further call for those left."""

    def rest(self, response: Response) -> Throttled | None:
        """Say for how long the vendor wants no more calls, when a reply says so beside its answer."""
        return None

    def attend(self, settled: Sequence[Settled]) -> None:  # noqa: B027 - most queues need none
        """See to what an outcome means beyond its row. Called for every outcome but `Done`, in the
        transaction that settles it."""

    def drained(self, flows: Sequence[int]) -> None:  # noqa: B027 - likewise
        """Told when a flow that had rows has none left to claim or in hand. May be told twice."""

    def retry_delay(self, attempts_used: int) -> timedelta | None:
        """Say how long a row waits after its `attempts_used`-th failure, jittered; None: it has failed."""
        if attempts_used > len(self.retry_delays):
            return None
        return self.retry_delays[attempts_used - 1] * uniform(1.0, 1.2)


OUTCOMES = ("done", "continued", "retried", "throttled", "failed", "in_doubt", "held", "given_back")


@dataclass(slots=True)
class Report:
    """What one turn of a queue did; the contract's `process --json` line."""

    queue: str
    claimed: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0
    throttled: int = 0
    in_doubt: int = 0
    held: int = 0
    remaining: int = 0
    seconds: float = 0.0
    continued: int = 0
    given_back: int = 0
    overtaken: int = 0
    calls: int = 0
    lanes: int = 0
    batch_size: int = 0

    @property
    def per_second(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0

    def add(self, other: Report) -> None:
        """Add what another one counted of outcomes."""
        for name in OUTCOMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self) -> dict[str, str | int | float]:
        counts = ("claimed", "done", "failed", "retried", "throttled", "in_doubt", "held", "remaining")
        return {
            "queue": self.queue,
            **{name: getattr(self, name) for name in counts},
            "seconds": round(self.seconds, 3),
            "per_second": round(self.per_second, 2),
        }


class Queue(Protocol):
    """Anything that `process` can run."""

    def run(
        self,
        *,
        seconds: float,
        until_empty: bool = False,
        idle_seconds: float = inf,
        successor: Callable[[], object] | None = None,
    ) -> Report:
        """Work until the deadline, until nothing is left, or until there was nothing for `idle_seconds`.

        `successor` asks for another run; it is called when this one ends with work left.
        """

    def waiting(self) -> int:
        """Count the rows still to be done."""


_queues: dict[str, Queue] = {}


class UnknownQueue(LookupError):
    """No app has registered a queue of this name."""


def register_queue(name: str, queue: Queue) -> None:
    _queues[name] = queue


def get_queue(name: str) -> Queue:
    try:
        return _queues[name]
    except KeyError:
        raise UnknownQueue(f"no queue is called {name!r}; there are: {', '.join(sorted(_queues))}") from None


def all_queues() -> list[str]:
    return sorted(_queues)
