"""Rows that somebody else holds: how long to wait for one, and how not to pass it over for ever."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from random import choice
from time import monotonic
from typing import Any

import psycopg
from django.db import transaction
from psycopg import Cursor

from engine.store.claims import Claims

ROWS_WAIT, OTHERS_WAIT = "2s", "100ms"
"""How long a statement waits for a locked row: its own requests', which others hold for a moment only, and
those that an application's code wants, which a person may hold."""
WAITS_EVERY = 1.0
"""Seconds between two waits for a row that was passed over."""


def wait_at_most(db: Cursor[Any], wait: str) -> None:
    """Set how long the rest of the transaction waits for a lock: ROWS_WAIT or OTHERS_WAIT."""
    db.execute(f"SET LOCAL lock_timeout = '{wait}'")


def unless_locked(db: Cursor[Any], work: Callable[[], object]) -> bool:
    """Do what locks a row, unless somebody holds that; says whether it was done."""
    try:
        with transaction.atomic():
            wait_at_most(db, OTHERS_WAIT)
            work()
            wait_at_most(db, ROWS_WAIT)
    except psycopg.errors.LockNotAvailable:
        return False
    return True


class Line:
    """Standing in line for rows that were passed over: those that others lock again and again would be
    passed over for ever."""

    def __init__(self, claims: Claims) -> None:
        self.claims = claims
        self._waited_at: dict[str, float] = {}

    def wait(self, db: Cursor[Any], locked: Collection[int], why: str) -> int | None:
        """Wait for one of these rows, briefly, and once a second for each `why`; returns the row it got."""
        if not locked or monotonic() - self._waited_at.get(why, 0.0) < WAITS_EVERY:
            return None
        self._waited_at[why] = monotonic()
        row = choice(sorted(locked))
        return row if unless_locked(db, partial(self.claims.wait_for, db, row)) else None
