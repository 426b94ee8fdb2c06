"""Messages as CSV, a line at a time, however many there are."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.db.models import QuerySet
from rest_framework.renderers import BaseRenderer, JSONRenderer

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


class _Line:
    """What csv writes to: gives the line back instead of keeping it."""

    def write(self, line: str) -> str:
        return line


def csv_lines(messages: QuerySet[Any]) -> Iterator[str]:
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
