"""Run one job of the minute so that whatever it raises stops no other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Final, TypeVar

import structlog
from django.db import DatabaseError, connection

from engine.watch.incidents import end_incident, open_incident
from tenants.scope import all_tenants

logger = structlog.get_logger(__name__)

T = TypeVar("T")

KIND: Final = "watch"
MOST_SECONDS: Final = 20
"""A statement of a job is ended after this long, a lock given up on after a quarter of it."""


def guarded(job: str, work: Callable[[], T], *, atomic: bool = True) -> T | None:
    """Do `work`; what it raises is logged, is an incident of kind `watch` about `job`, and is None here.

    With `atomic` it is a transaction of its own over all tenants, whose statements may not hang. The
    incident ends the next time that the same job comes through.
    """
    try:
        with all_tenants(atomic=True) if atomic else nullcontext():
            if atomic:
                _limit_statements()
            done = work()
    except Exception as error:
        logger.exception("a job of the minute's watch failed", job=job)
        _note(job, f"{job} cannot be done: {type(error).__name__}: {error}")
        return None
    _note(job, "")
    return done


def _limit_statements() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('statement_timeout', %s, true), set_config('lock_timeout', %s, true)",
            [f"{MOST_SECONDS}s", f"{MOST_SECONDS // 4}s"],
        )


def _note(job: str, fault: str) -> None:
    """Open the job's incident, or end it."""
    try:
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
        with all_tenants(atomic=True):
            if fault:
                open_incident(tenant_id=None, kind=KIND, scope=job, summary=fault)
            else:
                end_incident(tenant_id=None, kind=KIND, scope=job)
    except DatabaseError:  # the database is away: the log has said what failed
        logger.exception("the watch cannot write its own incident", job=job)
