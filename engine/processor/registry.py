"""Which queues there are, and who works each: filled by the apps as Django starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Protocol

from engine.processor.contract import Processor
from engine.processor.counts import Counts


class Worker(Protocol):
    """Anything that works a queue: a processor's runner, the inbox."""

    def run(
        self,
        *,
        seconds: float,
        until_empty: bool = False,
        idle_seconds: float = inf,
        successor: Callable[[], object] | None = None,
    ) -> Counts:
        """Work until the deadline, until nothing is left, or until there was nothing for `idle_seconds`.

        `successor` asks for another run; it is called when this one ends with work left.
        """

    def waiting(self) -> int:
        """Count the rows that are due."""


_workers: dict[str, Worker] = {}
_processors: dict[str, list[Processor]] = {}


class UnknownQueue(LookupError):
    """No app has registered a queue of this name."""


def register_processor(processor: Processor) -> None:
    """Let `process QUEUE` and the queue's cluster run this processor, beside others of the same queue."""
    from engine.run.runner import Runner

    mine = _processors.setdefault(processor.queue, [])
    if any(other.name == processor.name for other in mine):
        raise ValueError(f"there are two processors called {processor.name!r}")
    mine.append(processor)
    _workers[processor.queue] = Runner(processor.queue, mine)


def register_worker(queue: str, worker: Worker) -> None:
    """Let `worker` work a queue that needs no calls."""
    _workers[queue] = worker


def get_queue(name: str) -> Worker:
    """Return who works this queue. Raises UnknownQueue."""
    try:
        return _workers[name]
    except KeyError:
        known = ", ".join(all_queues())
        raise UnknownQueue(f"no queue is called {name!r}; there are: {known}") from None


def all_queues() -> list[str]:
    return sorted(_workers)


def processors_of(queue: str) -> Sequence[Processor]:
    """List the processors of a queue; none for a queue that makes no calls."""
    return tuple(_processors.get(queue, ()))


def all_processors() -> list[Processor]:
    return [processor for queue in all_queues() for processor in processors_of(queue)]
