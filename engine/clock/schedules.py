"""django-q2 as the clock and the hands: one table of schedules, and a way to ask for a run at once.

A queued task is only a tick. What must survive is in our own tables, so a tick that is lost or doubled is
harmless. Which ticks wait is in a table of ours as well (`TickRequest`), so that the database and Redis
behave alike as brokers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from django.db import connection, transaction
from django.utils import timezone
from django_q.models import Schedule
from django_q.tasks import async_task

from engine.models import TickRequest
from engine.processor.registry import all_queues

logger = structlog.get_logger(__name__)

DEFAULT_CLUSTER = "turnout"
TICK = "engine.clock.tasks.tick"
LOST_SECONDS: Final = 60.0
"""A tick that has not begun for this long counts as lost, as Redis loses those that a dead cluster held."""

# Whoever writes or renews the row queues the tick; to everybody else one waits already. Runs by itself, in
# no transaction of a caller's, so that the row is never locked for longer than this statement.
_ASK: Final = """
    INSERT INTO engine_tickrequest AS waiting (queue, asked_at) VALUES (%(queue)s, now())
    ON CONFLICT (queue) DO UPDATE SET asked_at = excluded.asked_at
     WHERE waiting.asked_at < now() - %(lost)s * interval '1 second'
    RETURNING queue"""


@dataclass(frozen=True)
class Entry:
    """One schedule: a function of ours with fixed arguments, every so many minutes, on one cluster."""

    name: str
    function: str
    minutes: int = 1
    cluster: str = DEFAULT_CLUSTER
    arguments: tuple[str, ...] = ()


_entries: list[Entry] = [Entry("watch", "engine.clock.tasks.watch")]


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


def enqueue(queue: str) -> None:
    """Ask for a run of `queue` as soon as the caller's transaction is committed.

    One that is rolled back asks for nothing. While a tick waits that was asked for and has not begun, no
    other is queued: it will find this caller's rows as well. A broker that is away is logged and fails
    nobody, since the schedule's own tick comes within the minute.
    """
    transaction.on_commit(partial(_queue_tick, queue))


def begin_tick(queue: str) -> None:
    """Say that a tick of `queue` begins: what is asked for from now on wants another one.

    To be committed before the queue is looked at, so that no row is missed by both.
    """
    TickRequest.objects.filter(queue=queue).delete()


def _queue_tick(queue: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_ASK, {"queue": queue, "lost": LOST_SECONDS})
        if not cursor.fetchone():
            return
    try:
        async_task(TICK, queue, cluster=queue, task_name=f"tick {queue}")
    except Exception:  # the broker's own kinds: redis-py is not always installed
        TickRequest.objects.filter(queue=queue).delete()
        logger.exception("no tick could be queued; the schedule's own comes within a minute", queue=queue)
