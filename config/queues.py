"""How much waits in each queue, for health, metrics and `status`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.db import connection

from engine.processor.registry import all_queues, processors_of

CAP: Final = 10_000  # counting further would say nothing more and cost ever more


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits in one queue, counted up to CAP; the oldest is that of those counted."""

    queue: str
    waiting: int
    oldest_due_seconds: float


def depths() -> list[Depth]:
    return [depth(queue) for queue in all_queues()]


def depth(queue: str) -> Depth:
    table, waits = "engine_receipt", "applied_at IS NULL"
    for processor in processors_of(queue):
        table, waits = processor.model._meta.db_table, "state = 'queued'"
    with connection.cursor() as cursor:
        # Each table has a partial index on exactly this condition.
        cursor.execute(
            f"SELECT count(*), coalesce(extract(epoch FROM now() - min(due_at)), 0) "
            f"FROM (SELECT due_at FROM {table} WHERE {waits} LIMIT {CAP}) counted"
        )
        waiting, oldest = cursor.fetchone()
    return Depth(queue, waiting, max(0.0, round(float(oldest), 1)))
