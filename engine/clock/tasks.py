"""What django-q2 runs: ticks, heartbeats, the minute's watch."""

from __future__ import annotations

from functools import partial
from math import inf

from django.conf import settings

from engine.actions import recover_lanes
from engine.clock.schedules import DEFAULT_CLUSTER, begin_tick, enqueue
from engine.processor.counts import Counts
from engine.processor.registry import get_queue
from engine.watch.alerts import tell_incidents
from engine.watch.checks import watch_everything
from engine.watch.guard import guarded
from engine.watch.heartbeats import write_heartbeat

IDLE_SECONDS = 2.0
"""A tick that finds nothing to do makes room for another after this long."""


def run_queue(queue: str, *, seconds: float, until_empty: bool = False, idle_seconds: float = inf) -> Counts:
    """Run a queue in this process until its deadline, until nothing is left, or until it has had nothing
    to do for `idle_seconds`."""
    return get_queue(queue).run(seconds=seconds, until_empty=until_empty, idle_seconds=idle_seconds)


def tick(queue: str) -> dict[str, str | int | float]:
    """Work on a queue, and end well before django-q2 would end us."""
    write_heartbeat(queue)
    begin_tick(queue)
    report = get_queue(queue).run(
        seconds=settings.TICK_SECONDS, idle_seconds=IDLE_SECONDS, successor=partial(enqueue, queue)
    )
    return report.as_dict()


def beat(cluster: str) -> None:
    """Say that this cluster's workers work, should it have nothing else to do."""
    write_heartbeat(cluster)


def watch() -> None:
    """The minute's work: see to what dead runs left, open and end incidents, tell people.

    Each of the three is done whatever the others raise.
    """
    write_heartbeat(DEFAULT_CLUSTER)
    guarded("recovery", recover_lanes, atomic=False)
    guarded("checks", watch_everything, atomic=False)
    guarded("alerts", tell_incidents, atomic=False)
