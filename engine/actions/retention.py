"""How long history is kept, and its deletion in chunks that nobody waits for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from engine.inbox.receipts import MOST_ATTEMPTS
from engine.store.partitions import drop_old_partitions, missing_partitions
from engine.watch.checks import Finding
from tenants.scope import all_tenants

log = structlog.stdlib.get_logger("turnout.retention")

CHUNK: Final = 2000
SCHEDULED_SECONDS: Final = 40.0  # a scheduled purge goes on where it stopped an hour later
SLOT_PAST: Final = """slot < %s AND slot < (
    SELECT engine_allowance_opens(a."window", a.timezone) FROM engine_allowance AS a
     WHERE a.id = allowance_id)"""


@dataclass(slots=True, frozen=True)
class Kept:
    """What is kept of one table: rows for which `old` (SQL, its one parameter the time before) may go."""

    what: str
    table: str
    old: str
    order: str
    days: float


def rules() -> list[Kept]:
    """List what is deleted, and after how many days."""
    return [
        Kept("applied webhooks", "engine_receipt", "applied_at < %s", "applied_at", settings.RECEIPT_DAYS),
        Kept(
            "webhooks given up on",
            "engine_receipt",
            f"applied_at IS NULL AND attempts >= {MOST_ATTEMPTS} AND received_at < %s",
            "due_at, id",
            30,
        ),
        Kept("runs", "engine_run", "state <> 'running' AND started_at < %s", "id", 90),
        Kept("ended incidents", "engine_incident", "ended_at < %s", "id", 180),
        Kept("spending", "engine_allowanceuse", SLOT_PAST, "slot", 2),
        Kept("idempotency keys", "tenants_idempotentrequest", "created_at < %s", "created_at", 1),
    ]


def purge_history(
    *, dry_run: bool = False, seconds: float | None = None, chunk: int = CHUNK
) -> dict[str, int]:
    """Delete what is older than it is kept, so many rows a transaction; returns {what: how many}.

    With `dry_run` only counts. After `seconds` it stops between two chunks. Run under `all_tenants()` and
    outside a transaction.
    """
    until = None if seconds is None else time.monotonic() + seconds
    counts: dict[str, int] = {}
    for rule in rules():
        before = timezone.now() - timedelta(days=rule.days)
        counts[rule.what] = _count(rule, before) if dry_run else _delete(rule, before, until, chunk)
    counts["partitions"] = len(drop_old_partitions(dry_run=dry_run))
    return counts


def purge_by_schedule() -> dict[str, int]:
    """Purge for less than django-q2's time limit."""
    with all_tenants():
        counts = purge_history(seconds=SCHEDULED_SECONDS)
    if any(counts.values()):
        log.info("history purged", **{what.replace(" ", "_"): n for what, n in counts.items()})
    return counts


def unmade_partitions() -> list[Finding]:
    """Find the months, this one and the next, whose rows would be refused for want of a partition."""
    return [
        Finding(
            f"partition:{name}", f"{name} is missing: run `manage.py make_partitions`", severity="critical"
        )
        for name in missing_partitions()
    ]


def _count(rule: Kept, before: Any) -> int:
    return int(_execute(f"SELECT count(*) FROM {rule.table} WHERE {rule.old}", [before])[0][0])


def _delete(rule: Kept, before: Any, until: float | None, chunk: int) -> int:
    deleted = 0
    while until is None or time.monotonic() < until:
        with transaction.atomic():
            gone = _execute(
                f"WITH gone AS (DELETE FROM {rule.table} WHERE id = ANY(ARRAY("
                f"SELECT id FROM {rule.table} WHERE {rule.old} ORDER BY {rule.order} LIMIT %s"
                f" FOR UPDATE SKIP LOCKED)) RETURNING 1) SELECT count(*) FROM gone",
                [before, chunk],
            )[0][0]
        deleted += gone
        if gone < chunk:
            break
    return deleted


def _execute(statement: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
        return rows
