"""When each cluster was last seen working.

A cluster works while its workers begin tasks. So its heartbeat is written by whatever begins there: each
tick, the minute's watch, and, for a cluster with nothing else to do, a scheduled `beat`. A queue full of
ticks of 50 seconds beats every 50 seconds; a cluster whose workers wait for a lock that nobody holds begins
nothing, and falls silent.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Final

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from engine.models import Heartbeat
from engine.processor.registry import all_queues

SILENT_SECONDS: Final = 180.0
"""More than the longest that every worker of a cluster may be busy with one task: django-q2's time-out."""


def cluster_names() -> list[str]:
    """List the clusters that should be at work: the default one, and one for each registered queue."""
    return [settings.Q_CLUSTER["name"], *all_queues()]


def write_heartbeat(cluster: str) -> None:
    """Say that a worker of this cluster has just begun a task."""
    Heartbeat.objects.update_or_create(
        cluster=cluster,
        defaults={"beat_at": timezone.now(), "process": f"{socket.gethostname()}:{os.getpid()}"},
    )


def silent_clusters() -> QuerySet[Heartbeat]:
    """Find the clusters that began nothing for three minutes. One that no longer exists is not silent."""
    late = timezone.now() - timedelta(seconds=SILENT_SECONDS)
    return Heartbeat.objects.filter(cluster__in=cluster_names(), beat_at__lt=late)


def expect_heartbeats() -> None:
    """Give each cluster three minutes from now to show that it works.

    What an earlier run left would be taken for a silent cluster, and one that does not come up at all
    would leave nothing to be noticed by.
    """
    beats = [Heartbeat(cluster=name, beat_at=timezone.now(), process="expected") for name in cluster_names()]
    Heartbeat.objects.bulk_create(
        beats, update_conflicts=True, unique_fields=["cluster"], update_fields=["beat_at", "process"]
    )
