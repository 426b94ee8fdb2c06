"""Monthly partitions of append-only tables: made ahead, and dropped whole when they are too old.

A partitioned table has no DEFAULT partition: with one, a month could not be made once rows of it had come,
and none could be detached beside running queries. So a month that is missing refuses its rows, and is made
long before: `make_partitions` looks several months ahead, each day.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

from django.db import connection, transaction

MONTHS_AHEAD: Final = 3
_LOCK_SECONDS: Final = 5


@dataclass(slots=True, frozen=True)
class Partitioned:
    """A table that is PARTITION BY RANGE of a timestamptz; `keep_months` full months stay, None: all."""

    table: str
    keep_months: int | None = None


_tables: dict[str, Partitioned] = {}


def register_partitioned(table: str, *, keep_months: int | None = None) -> None:
    """Let this table's months be made, and dropped after `keep_months`; from an app's `ready()`."""
    _tables[table] = Partitioned(table, keep_months)


def make_partitions(*, months: int = MONTHS_AHEAD, today: date | None = None) -> list[str]:
    """Make this month's partition and those of `months` months ahead; returns the names of the new ones.

    Attached rather than created in place: that does not wait for, nor hold up, whoever reads or writes the
    table. Safe to run again, and by two at once.
    """
    made = []
    with _as_owner():
        for found in _tables.values():
            present = set(_partitions(found.table))
            for month in _months(today or _today(), months + 1):
                name = partition_name(found.table, month)
                if name not in present and _make(found.table, name, month):
                    made.append(name)
    return made


def missing_partitions(*, months: int = 1, today: date | None = None) -> list[str]:
    """Name the partitions of this month and the next `months` that are not there: rows would be refused."""
    return [
        name
        for found in _tables.values()
        for name in (partition_name(found.table, m) for m in _months(today or _today(), months + 1))
        if name not in _partitions(found.table)
    ]


def drop_old_partitions(*, dry_run: bool = False, today: date | None = None) -> list[str]:
    """Detach and drop the partitions that are past their table's `keep_months`; returns their names.

    Detached concurrently, beside running queries, which PostgreSQL does outside a transaction only. What a
    detach that was broken off left behind is finished by the next.
    """
    dropped = []
    with _as_owner():
        for found in _tables.values():
            if found.keep_months is None:
                continue
            oldest_kept = _add_months(today or _today(), -found.keep_months)
            for name in _partitions(found.table):
                if name < partition_name(found.table, oldest_kept):
                    dropped.append(name)
                    if not dry_run:
                        _drop(found.table, name)
    return dropped


def partition_name(table: str, month: date) -> str:
    return f"{table}_{month:%Y_%m}"


def _make(table: str, name: str, month: date) -> bool:
    start, end = (datetime(m.year, m.month, 1, tzinfo=UTC) for m in (month, _add_months(month, 1)))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{_LOCK_SECONDS}s"])
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"partitions of {table}"])
        if name in _partitions(table):
            return False  # somebody else was quicker
        like = (
            "INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE"
        )
        cursor.execute(_sql(f"CREATE TABLE {{0}} (LIKE {{1}} {like})", name, table))
        bounds = f"FROM ('{start.isoformat()}') TO ('{end.isoformat()}')"
        cursor.execute(_sql(f"ALTER TABLE {{1}} ATTACH PARTITION {{0}} FOR VALUES {bounds}", name, table))
    return True


def _drop(table: str, name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass(quote_ident(%s))", [name]
        )
        (pending,) = cursor.fetchone()
        cursor.execute(
            _sql(
                f"ALTER TABLE {{0}} DETACH PARTITION {{1}} {'FINALIZE' if pending else 'CONCURRENTLY'}",
                table,
                name,
            )
        )
        cursor.execute(_sql("DROP TABLE {0}", name))


def _partitions(table: str) -> list[str]:
    """Name the partitions that a table has, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
            "WHERE i.inhparent = to_regclass(quote_ident(%s)) ORDER BY 1",
            [table],
        )
        return [name for (name,) in cursor.fetchall()]


def _sql(template: str, *names: str) -> str:
    quoted = (connection.ops.quote_name(name) for name in names)
    return template.format(*quoted)


@contextmanager
def _as_owner() -> Iterator[None]:
    """Act as the role that we log in with: it owns the tables, and the one that sees all tenants does not."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('role')")
        before = cursor.fetchone()[0]
        cursor.execute("SET ROLE NONE")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('role', %s, false)", [before])


def _today() -> date:
    return datetime.now(UTC).date()


def _add_months(day: date, months: int) -> date:
    years, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(years, month + 1, 1)


def _months(first: date, count: int) -> list[date]:
    return [_add_months(first, number) for number in range(count)]
