"""Run an application's code over many requests so that one flow's fault is that flow's alone.

The work is tried over all of them in a savepoint. Where it raises, it is tried over the halves of the flows,
until the flow at fault stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import structlog
from django.db import connection, transaction

from engine.store.errors import Trouble, trouble

T = TypeVar("T")
R = TypeVar("R")

logger = structlog.get_logger(__name__)
DETAIL_LENGTH = 500


@dataclass(slots=True, frozen=True)
class Fault(Generic[T]):
    """The rows of one flow over which an application's code raised."""

    flow: int
    rows: Sequence[T]
    error: Exception

    @property
    def detail(self) -> str:
        return f"{type(self.error).__name__}: {self.error}".replace("\0", "")[:DETAIL_LENGTH]


@dataclass(slots=True)
class Isolated(Generic[T, R]):
    """What came of it: the parts that went well with their results, faults, and rows locked by others."""

    done: list[tuple[Sequence[T], R]] = field(default_factory=list)
    faults: list[Fault[T]] = field(default_factory=list)
    locked: list[T] = field(default_factory=list)


def isolate(
    rows: Sequence[T], flow_of: Callable[[T], int], work: Callable[[Sequence[T]], R]
) -> Isolated[T, R]:
    """Do `work` over `rows`, each part in a savepoint of the caller's transaction.

    A lost connection, a deadlock and a serialization failure are raised: they end the whole transaction.
    """
    result: Isolated[T, R] = Isolated()
    if rows:
        _try(list(rows), flow_of, work, result)
    return result


def _try(
    rows: list[T], flow_of: Callable[[T], int], work: Callable[[Sequence[T]], R], result: Isolated[T, R]
) -> None:
    try:
        with transaction.atomic():
            found = work(rows)
    except Exception as error:
        kind = trouble(error)
        if kind in (Trouble.AWAY, Trouble.AGAIN) or not connection.is_usable():
            raise
        flows = list(dict.fromkeys(flow_of(row) for row in rows))
        if len(flows) == 1:
            if kind is Trouble.LOCKED:
                result.locked.extend(rows)
            else:
                logger.exception("an application's code fails", flow=flows[0], rows=len(rows))
                result.faults.append(Fault(flows[0], rows, error))
            return
        half = set(flows[: len(flows) // 2])
        _try([row for row in rows if flow_of(row) in half], flow_of, work, result)
        _try([row for row in rows if flow_of(row) not in half], flow_of, work, result)
    else:
        result.done.append((rows, found))
