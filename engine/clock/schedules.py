"""django-q2 as the clock and the hands: one table of schedules, and a way to ask for a run at once.

A queued task is only a tick. What must survive is in our own tables, so a tick that is lost or doubled is
harmless, and with the database as broker asking for one is part of the caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone
from django_q.models import OrmQ, Schedule
from django_q.tasks import async_task

from engine.processor.registry import all_queues

DEFAULT_CLUSTER = "turnout"
TICK = "engine.clock.tasks.tick"


@dataclass(frozen=True)
class Entry:
    """One schedule: a function of ours with fixed arguments, every so many minutes, on one cluster."""

    name: str
    function: str
    minutes: int = 1
    cluster: str = DEFAULT_CLUSTER
    arguments: tuple[str, ...] = ()


_entries: list[Entry] = [
    Entry("watch", "engine.clock.tasks.watch"),
    Entry("forget", "engine.clock.tasks.forget", minutes=60),
]


def register_schedule(entry: Entry) -> None:
    """Add a schedule of an app's own; called from its `ready()`."""
    _entries.append(entry)


def schedules() -> list[Entry]:
    """The one table: every queue's tick and heartbeat, and what the apps registered."""
    clusters = [DEFAULT_CLUSTER, *all_queues()]
    ticks = [Entry(f"tick {queue}", TICK, cluster=queue, arguments=(queue,)) for queue in all_queues()]
    beats = [Entry(f"beat {c}", "engine.clock.tasks.beat", cluster=c, arguments=(c,)) for c in clusters]
    return [*ticks, *beats, *_entries]


@transaction.atomic
def sync_schedules() -> dict[str, int]:
    """Make django-q2's schedules those of the table: add, mend, and remove what is not in it."""
    with connection.cursor() as cursor:  # two at once would both add what neither finds
        cursor.execute(f"LOCK TABLE {Schedule._meta.db_table} IN SHARE ROW EXCLUSIVE MODE")
    wanted = {entry.name: entry for entry in schedules()}
    removed, _ = Schedule.objects.exclude(name__in=wanted).delete()
    counts = {"added": 0, "changed": 0, "removed": removed}
    for name, entry in wanted.items():
        values = {
            "func": entry.function,
            "args": repr(entry.arguments) if entry.arguments else "",
            "kwargs": "",
            "schedule_type": Schedule.MINUTES,
            "minutes": entry.minutes,
            "repeats": -1,
            "cluster": None if entry.cluster == DEFAULT_CLUSTER else entry.cluster,
        }
        found = list(Schedule.objects.filter(name=name).order_by("id"))
        for doubled in found[1:]:
            doubled.delete()
        if not found:
            Schedule.objects.create(name=name, next_run=timezone.now(), **values)
            counts["added"] += 1
        elif any(getattr(found[0], key) != value for key, value in values.items()):
            Schedule.objects.filter(pk=found[0].pk).update(**values)
            counts["changed"] += 1
    return counts


def enqueue(queue: str) -> bool:
    """Ask for a run of `queue` now, in the caller's transaction. False when one is waiting already."""
    if not settings.BROKER_URL and OrmQ.objects.filter(key=queue, lock__lte=timezone.now()).exists():
        return False
    async_task(TICK, queue, cluster=queue, task_name=f"tick {queue}")
    return True
