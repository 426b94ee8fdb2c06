"""Close the runs whose process died."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db.models import Exists, OuterRef
from django.utils import timezone

from engine.models import Lane, Run

LEASES_SILENT = 4
"""A run beats every quarter of a lease. One that has not for this many leases is not coming back."""


def close_lost_runs() -> int:
    """Record as lost the runs that stopped beating and hold no lane; returns how many.

    One that holds a lane is closed when its lease is over (`free_dead`), since its rows need seeing to.
    Should such a process only have stood still, its own last word replaces this one.
    """
    late = timezone.now() - timedelta(seconds=LEASES_SILENT * settings.LEASE_SECONDS)
    holds = Lane.objects.filter(holder=OuterRef("pk"))
    return (
        Run.objects.filter(~Exists(holds), state=Run.State.RUNNING, beat_at__lt=late)
        .order_by()
        .update(
            state=Run.State.LOST,
            ended_at=timezone.now(),
            error="the process died while it held no lane; what it had counted until then is what is shown",
        )
    )
