"""The row that a run leaves behind: opened with its first lane, kept up while it works, closed truthfully."""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from engine.models import Run
from engine.processor.contract import Processor, Stale
from engine.processor.counts import ADDED, Counts


def open_run(*, queue: str, processor: str, waiting: int) -> int:
    """Begin a run's row; returns its id."""
    process = f"{socket.gethostname()}:{os.getpid()}"
    return Run.objects.create(queue=queue, processor=processor, process=process, queue_before=waiting).pk


def write_run(run: int, counts: Counts, **changes: object) -> None:
    """Write what was counted so far, and that the run is alive."""
    written = {name: getattr(counts, name) for name in ADDED}
    Run.objects.filter(pk=run).update(
        beat_at=timezone.now(), lanes=counts.lanes, batch_size=counts.batch_size, **written, **changes
    )


def close_run(run: int, counts: Counts, *, error: str, left: int) -> None:
    """End the run's row: done, or failed with what ended it."""
    state = Run.State.FAILED if error else Run.State.DONE
    write_run(run, counts, state=state, ended_at=timezone.now(), error=error[:2000], queue_after=left)


def close_lost(runs: Collection[int], processor: Processor) -> int:
    """End the rows of runs that lost a lane and no longer beat: their process died. Returns how many."""
    became = "in doubt" if processor.stale is Stale.IN_DOUBT else "looked at again"
    return Run.objects.filter(
        pk__in=runs,
        state=Run.State.RUNNING,
        beat_at__lt=timezone.now() - timedelta(seconds=settings.LEASE_SECONDS),
    ).update(
        state=Run.State.LOST,
        ended_at=timezone.now(),
        error=f"the process died; what it had claimed went back, what it may have sent is {became}",
    )
