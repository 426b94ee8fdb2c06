"""Do many pieces of work one after the other, so that what is wrong with one stays with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog
from django.db import connection, transaction

from engine.watch.checks import Finding

log = structlog.stdlib.get_logger("turnout.broadcasts")

LOCK_WAIT: Final = "2s"
"""A row that somebody else holds longer is looked after in the next minute: the others do not wait for it."""


class Pieces:
    """The pieces of one minute's upkeep, and what went wrong with which.

    Whatever a piece raises is logged with its traceback and kept as a finding. Only a connection that is gone
    ends them all: nothing after it could be done.
    """

    def __init__(self) -> None:
        self.failed: list[Finding] = []

    @contextmanager
    def apart(self, what: str, *, broadcast: tuple[int, int, str]) -> Iterator[None]:
        """Do one piece for one broadcast (id, tenant id, name) in a transaction of its own."""
        broadcast_id, tenant_id, name = broadcast
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SELECT set_config('lock_timeout', %s, true)", [LOCK_WAIT])
                yield
        except Exception as error:
            log.exception("upkeep failed", what=what, broadcast=broadcast_id)
            self._note(f"broadcast:{broadcast_id}", f"“{name}”: {what} failed", error, tenant_id)

    def counted(self, what: str, work: Callable[[Pieces], int]) -> int:
        """Do a kind of work for everybody; returns its count, 0 when it failed as a whole."""
        try:
            return work(self)
        except Exception as error:
            log.exception("upkeep failed", what=what)
            self._note(f"upkeep:{what}", f"The minute's {what} of broadcasts failed", error)
            return 0

    def _note(self, scope: str, summary: str, error: Exception, tenant_id: int | None = None) -> None:
        if not connection.is_usable():
            raise error
        summary = f"{summary} ({type(error).__name__}); it is tried again every minute"
        self.failed.append(Finding(scope, summary, tenant_id))
