"""The run of a queue that has no lanes, told truthfully whatever ends it."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

import structlog
from django.db import DatabaseError, InterfaceError, connection

from engine.processor.counts import Counts
from engine.store.runs import close_run, open_run, write_run

logger = structlog.get_logger(__name__)

BEAT_SECONDS: Final = 1.0


class RunRecord:
    """One row of `Run`, written when there is something to do, closed when the block ends.

    An interrupt from the keyboard ends the block quietly, and the run is done; whatever else breaks it goes
    on, and the row says so.
    """

    def __init__(self, queue: str, processor: str, report: Counts, *, waiting: Callable[[], int]) -> None:
        self.queue, self.processor, self.report = queue, processor, report
        self.waiting = waiting
        self.run: int | None = None
        self._beat_at = 0.0

    @property
    def is_open(self) -> bool:
        return self.run is not None

    def open(self) -> None:
        """Write the row."""
        self.run = open_run(queue=self.queue, processor=self.processor, waiting=self.waiting())

    def beat(self) -> None:
        """Write the counts so far, once a second at most."""
        if time.monotonic() - self._beat_at >= BEAT_SECONDS:
            self._beat_at = time.monotonic()
            assert self.run is not None
            write_run(self.run, self.report)

    def __enter__(self) -> RunRecord:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        interrupted = isinstance(error, KeyboardInterrupt)
        if interrupted:
            logger.info("interrupted; the batch in hand stays as it was", queue=self.queue)
        if self.run is not None:
            ended = error is None or interrupted  # being asked to stop is no failure, as for `Runner`
            try:
                self._close(self.run, "" if ended else _say(error))
            except (DatabaseError, InterfaceError) as away:
                logger.warning("run not closed", run=self.run, error=str(away).strip())
        return interrupted

    def _close(self, run: int, error: str) -> None:
        try:
            close_run(run, self.report, error=error, left=self.waiting())
        except (DatabaseError, InterfaceError):  # it broke off in mid-statement: once more, connected anew
            connection.close()
            close_run(run, self.report, error=error, left=self.waiting())


def _say(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"[:2000].replace("\0", "␀") if error is not None else ""
