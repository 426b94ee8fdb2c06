"""Which processors work a queue."""

from __future__ import annotations

from collections.abc import Sequence

from engine.processor.contract import Processor, get_queue


def processors_of(queue: str) -> Sequence[Processor]:
    """List the processors that are registered under a queue; none for one that calls nobody, as `events`."""
    registered = get_queue(queue)
    many: Sequence[Processor] | None = getattr(registered, "processors", None)
    if many is not None:
        return tuple(many)
    one: Processor | None = getattr(registered, "processor", None)
    return () if one is None else (one,)


def name_of(processor: Processor) -> str:
    """Return the name by which lanes, runs and held flows know a processor; its queue's, without one."""
    name: str = getattr(processor, "name", "") or processor.queue
    return name
