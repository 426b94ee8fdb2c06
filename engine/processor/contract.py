"""What the author of an application writes against: a row is a request, one call at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from random import uniform
from typing import Any, ClassVar
from uuid import UUID

from engine.models import QueueItem
from providers.base import Call, Outcome, Reply, Response, Usage


class Stale(Enum):
    """What becomes of a request whose runner died while its call may have been under way."""

    GIVE_BACK = "a read: back to the queue"
    IN_DOUBT = "a send: nobody can know, so never by itself again"
    LOOK_AGAIN = "begins something paid: back to the queue with its attempt, and looked for before it begins"


@dataclass(slots=True, eq=False)
class Request:
    """One claimed row. `columns` holds what the processor asked for; `attempt` names the call to be made.

    `attempts` counts those used up so far. `begun` says that a call may have been made before under the
    same `attempt` and that the vendor has not said what became of it: a plan that begins something paid
    looks for it first (`Stale.LOOK_AGAIN`).
    """

    id: int
    tenant_id: int
    lane_id: int
    flow: int
    attempts: int
    attempt: UUID | None
    columns: Mapping[str, Any]
    rank: int = 0
    begun: bool = False


@dataclass(slots=True, frozen=True)
class LaneFacts:
    """The lane that a request's call leaves by: whose it is, and what the vendor wants to know.

    `tenant_id` is None for a lane of the platform's own. `config` is the token's open settings.
    """

    id: int
    tenant_id: int | None
    token_id: int
    name: str
    provider: str
    base_url: str
    version: str
    secret: str = field(repr=False)
    config: Mapping[str, Any] = field(default_factory=dict)


Settled = tuple[Request, Outcome]


class Processor(ABC):
    """A queue of requests that a vendor's replies settle.

    `plan`, `interpret` and `usage` are pure and run in the event loop. `prepare`, `learn`, `drained` and
    `hold_flow` run in the runner's one database thread, where the ORM may be used and the network may not.
    Whatever any of them raises is caught for the flow that caused it: that flow is held, the rest goes on.
    """

    name: ClassVar[str]
    """Its own: lanes belong to it by this name."""
    queue: ClassVar[str]
    """The cluster that runs it. Several processors may share one."""
    model: ClassVar[type[QueueItem]]

    columns: ClassVar[tuple[str, ...]] = ()
    """Columns of the row that the plan needs."""
    results: ClassVar[Mapping[str, str]] = {}
    """Columns that an outcome's `fields` may set, with their SQL types. One that is missing, or None, stays
    as it is."""
    flow: ClassVar[str] = "tenant_id"
    """Bigint column by which a lane's rows are shared out fairly, and stopped at once."""
    flow_rank: ClassVar[str] = "0"
    """SQL over `{flow}`, a small integer: flows of a lower rank go first, those of one rank share fairly."""
    runnable: ClassVar[str] = "TRUE"
    """SQL condition over `{flow}`: may its rows go out? Asked at the claim, as rows leave, each second."""
    stale: ClassVar[Stale] = Stale.GIVE_BACK
    retry_delays: ClassVar[tuple[timedelta, ...]] = (timedelta(seconds=5), timedelta(seconds=10))
    """How long to wait before each further attempt; after the last one the row has failed."""
    done_state: ClassVar[str] = "done"
    failed_state: ClassVar[str] = "failed"
    done_stamp: ClassVar[str | None] = None
    """Column that takes the time at which a row was done."""
    failed_stamp: ClassVar[str | None] = None
    honest: ClassVar[frozenset[str]] = frozenset()
    """Codes of `Failed` that are honest answers ("not found") and no failure of the vendor's."""

    def prepare(self, requests: Sequence[Request]) -> Mapping[int, Outcome]:
        """Load what `plan` needs, and check once more what may not be called for.

        Returns {row id: outcome} of the requests that are settled without a call.
        """
        return {}

    @abstractmethod
    def plan(self, lane: LaneFacts, request: Request) -> Call:
        """Say which call the request needs next, from its row alone."""

    @abstractmethod
    def interpret(self, lane: LaneFacts, request: Request, response: Response) -> Outcome:
        """Say what the reply means for the request, and what it teaches."""

    def usage(self, reply: Reply) -> Usage | None:
        """Read what the vendor says beside its answer of the allowance that is used."""
        return None

    def learn(self, settled: Sequence[Settled]) -> int:
        """Write the facts of the requests that this settlement decided, in its transaction.

        Gets exactly those, `Done` included. May be told again after a lost acknowledgement, so what it
        writes is keyed. Returns how many rows of the application those facts decided.
        """
        return 0

    def drained(self, flows: Sequence[int]) -> None:  # noqa: B027 - most queues need none
        """Told when a flow that had rows has none left to claim or in hand. May be told twice."""

    def hold_flow(self, request: Request, *, reason: str, code: str, detail: str) -> bool:
        """Stop the flow of this request until a person lets it go on: the vendor wants it (`Hold`), or its
        rows make this processor's own code fail (reason `fault`).

        An application whose flows have a state of their own sets it here and returns True. False: the
        engine holds the flow itself (`FlowHold`).
        """
        return False

    def retry_delay(self, attempts_used: int) -> timedelta | None:
        """Say how long a row waits after its `attempts_used`-th failure, jittered; None: it has failed."""
        if attempts_used > len(self.retry_delays):
            return None
        return self.retry_delays[attempts_used - 1] * uniform(1.0, 1.2)
