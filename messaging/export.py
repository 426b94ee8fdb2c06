"""Messages as CSV, a piece at a time, however many there are; a few exports of each tenant at once."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from itertools import islice
from threading import Lock
from typing import Any, Final
from weakref import finalize

from django.db.models import QuerySet
from rest_framework.exceptions import Throttled
from rest_framework.renderers import BaseRenderer, JSONRenderer

from tenants.scope import Scope

AT_ONCE: Final = 2  # of one tenant in one process of the web server
RETRY_AFTER: Final = 10  # seconds
LINES_AT_ONCE: Final = 250  # a hand-over to the client for each line would cost more than the line

COLUMNS: Final = (
    "id",
    "broadcast_id",
    "step__position",
    "contact__external_id",
    "phone",
    "state",
    "attempts",
    "error_code",
    "error_detail",
    "wamid",
    "accepted_at",
    "sent_at",
    "delivered_at",
    "read_at",
    "failed_at",
)
HEADINGS: Final = tuple(
    {"step__position": "step", "contact__external_id": "contact", "broadcast_id": "broadcast"}.get(name, name)
    for name in COLUMNS
)
OTHERS_WORDS: Final = ("contact__external_id", "error_detail", "wamid")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


class CsvRenderer(BaseRenderer):
    """Let a client ask for `text/csv`; errors are JSON problem documents all the same."""

    media_type = "text/csv"
    format = "csv"

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> Any:
        return JSONRenderer().render(data)


class ExportsRunning:
    """How many exports each tenant has running in this process: `AT_ONCE` at most."""

    def __init__(self) -> None:
        self._running: Counter[Scope] = Counter()
        self._lock = Lock()

    def begin(self, tenant: Scope) -> None:
        """Count one more; raises Throttled (429, with Retry-After) when the tenant has enough of them."""
        with self._lock:
            if self._running[tenant] >= AT_ONCE:
                raise Throttled(
                    RETRY_AFTER, detail=f"{AT_ONCE} exports of yours are running: wait until one has ended."
                )
            self._running[tenant] += 1

    def end(self, tenant: Scope) -> None:
        with self._lock:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]


exports_running = ExportsRunning()


class CsvExport(Iterator[str]):
    """Messages as CSV in pieces of some 50 kB, counted as running until it is read to its end or closed.

    Raises Throttled when the tenant has enough exports running. One that nobody closes is counted until it
    is collected.
    """

    def __init__(self, messages: QuerySet[Any], *, whose: Scope) -> None:
        exports_running.begin(whose)
        self._end = finalize(self, exports_running.end, whose)
        self._lines = csv_lines(messages)

    def __next__(self) -> str:
        piece = "".join(islice(self._lines, LINES_AT_ONCE))
        if not piece:
            self.close()
            raise StopIteration
        return piece

    def close(self) -> None:
        self._lines.close()
        self._end()


class _Line:
    """What csv writes to: gives the line back instead of keeping it."""

    def write(self, line: str) -> str:
        return line


def csv_lines(messages: QuerySet[Any]) -> Generator[str, None, None]:
    """Write messages oldest first through a server-side cursor: memory stays flat.

    Cells with other people's words do not begin like a formula, since spreadsheets would run it.
    """
    writer = csv.writer(_Line())
    yield writer.writerow(HEADINGS)
    guarded = [COLUMNS.index(name) for name in OTHERS_WORDS]
    for row in messages.order_by("id").values_list(*COLUMNS).iterator(chunk_size=2000):
        cells = [cell.isoformat() if hasattr(cell, "isoformat") else cell for cell in row]
        for index in guarded:
            if cells[index].startswith(_FORMULA):
                cells[index] = "'" + cells[index]
        yield writer.writerow(cells)
