"""What django-q2 runs: ticks, heartbeats, and the minute's look at everything."""

from __future__ import annotations

import os
import socket
from functools import partial

from django.conf import settings
from django.utils import timezone

from engine.actions import recover_lanes
from engine.incidents import tell_incidents
from engine.models import Heartbeat
from engine.processors import Report, get_queue
from engine.schedules import enqueue
from engine.watch import watch_everything
from tenants.scope import all_tenants


def run_queue(queue: str, *, seconds: float, until_empty: bool = False, hand_over: bool = False) -> Report:
    """Run a queue in this process until its deadline or until nothing is left.

    With `hand_over`, another run is asked for when work is left.
    """
    successor = partial(enqueue, queue) if hand_over else None
    return get_queue(queue).run(seconds=seconds, until_empty=until_empty, successor=successor)


def tick(queue: str) -> dict[str, str | int | float]:
    """Work on a queue, and end well before django-q2 would end us."""
    return run_queue(queue, seconds=settings.TICK_SECONDS, hand_over=True).as_dict()


def beat(cluster: str) -> None:
    """Say that this cluster's workers work."""
    Heartbeat.objects.update_or_create(
        cluster=cluster,
        defaults={"beat_at": timezone.now(), "process": f"{socket.gethostname()}:{os.getpid()}"},
    )


def watch() -> None:
    """See to what dead runs left, open and end incidents, tell people."""
    with all_tenants():
        recover_lanes()
        watch_everything()
        tell_incidents()
