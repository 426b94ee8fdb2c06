"""Tell the database's errors apart: what to do about one depends on its kind, not on who wrapped it.

Django wraps psycopg's errors, and the engine's own cursors raise them plain; the SQLSTATE says the same in
both (PostgreSQL manual, appendix A).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

import psycopg
from django.db import Error as DjangoError


class Trouble(Enum):
    """What a database error means for the transaction that met it."""

    AGAIN = "deadlock or serialization: the same transaction again"
    AWAY = "the connection is lost: connect anew, nothing was written or nobody knows"
    LOCKED = "somebody holds a row longer than we wait: the rest first, this later"
    REFUSED = "the data does not fit: the row at fault alone is refused"


class DatabaseAway(Exception):
    """The database did not answer, or the connection broke: what was being written may or may not be."""


class RowsLocked(Exception):
    """Somebody else holds a row for longer than we wait."""


_AGAIN = {"40001", "40P01"}
_LOCKED = {"55P03"}
_AWAY_CLASSES = {"08", "57", "53", "58", "XX"}
"""Connection, operator intervention (shutdown, terminated), resources, system, internal."""
_CANCELLED = "57014"


def trouble(error: BaseException) -> Trouble | None:
    """Say what kind of database error this is; None when it is none."""
    for found in _chain(error):
        if isinstance(found, psycopg.Error):
            return _by_state(found)
    if isinstance(error, DjangoError):
        # raised by Django itself, e.g. InterfaceError("connection already closed")
        return Trouble.AWAY
    return None


def _by_state(error: psycopg.Error) -> Trouble:
    state = error.sqlstate
    if state is None:  # libpq's own: the server is gone, the socket broke
        away = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        return Trouble.AWAY if away else Trouble.REFUSED
    if state in _AGAIN:
        return Trouble.AGAIN
    if state in _LOCKED:
        return Trouble.LOCKED
    if state == _CANCELLED:  # statement_timeout, or a person's pg_cancel_backend
        return Trouble.AGAIN
    return Trouble.AWAY if state[:2] in _AWAY_CLASSES else Trouble.REFUSED


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = 0
    while error is not None and seen < 10:
        yield error
        error, seen = error.__cause__ or error.__context__, seen + 1
