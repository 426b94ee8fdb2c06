"""How many rows of a queue are due: those that a runner could claim now, if it were fast enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django.db import connection
from django.utils import timezone

from engine.inbox.receipts import MOST_ATTEMPTS
from engine.models import Receipt
from engine.processor.contract import Processor
from engine.processor.registry import processors_of
from engine.store.claims import runnable, skip_scan


@dataclass(frozen=True, slots=True)
class Depth:
    """What is due in one queue. `waiting` is counted up to a bound; the oldest is the oldest of all."""

    queue: str
    waiting: int
    oldest_due_seconds: float


# Each flow's due rows are read from the index that the flows are found by, until the bound is reached.
_DUE: Final = """{found}, runnable AS (
        SELECT found.* FROM found JOIN engine_lane AS l ON l.id = found.lane_id AND l.paused_at IS NULL
         WHERE found.due_at <= now() AND {runnable}
    )
    SELECT (SELECT count(*) FROM (
               SELECT FROM runnable AS r CROSS JOIN LATERAL (
                   SELECT FROM {table}
                    WHERE lane_id = r.lane_id AND {flow} = r.flow AND state = 'queued' AND due_at <= now()
                    LIMIT %(most)s) AS due
                LIMIT %(most)s) AS counted),
           (SELECT coalesce(extract(epoch FROM now() - min(due_at)), 0)::float8 FROM runnable)"""


def depth_of(queue: str, *, most: int) -> Depth:
    """Count what is due in a queue, up to `most` rows for each of its processors."""
    processors = processors_of(queue)
    if not processors:
        return Depth(queue, *_receipts(most))
    waiting, oldest = zip(*(_due(processor, most) for processor in processors), strict=True)
    return Depth(queue, min(most, sum(waiting)), max(oldest))


def _due(processor: Processor, most: int) -> tuple[int, float]:
    statement = _DUE.format(
        table=processor.model._meta.db_table,
        flow=processor.flow,
        found=skip_scan(processor),
        runnable=runnable(processor, "found.flow"),
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, {"most": most})
        waiting, oldest = cursor.fetchone()
    return waiting, round(oldest, 1)


def _receipts(most: int) -> tuple[int, float]:
    """The same for webhooks; those that were given up on are not due."""
    now = timezone.now()
    due = Receipt.objects.filter(applied_at=None, due_at__lte=now, attempts__lt=MOST_ATTEMPTS)
    first: Any = due.order_by("due_at").values_list("due_at", flat=True).first()
    waiting = due.order_by()[:most].count()
    return waiting, round((now - first).total_seconds(), 1) if first else 0.0
