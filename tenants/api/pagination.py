"""Lists in pages that cost the same however long the list is."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from rest_framework.exceptions import NotFound
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request


class LatestFirst(CursorPagination):
    """`next`, `previous`, `results`; the newest first, by id."""

    ordering = "-id"
    page_size = 100
    page_size_query_param = "page_size"
    max_page_size = 1000

    def decode_cursor(self, request: Request) -> Cursor | None:
        """Read the cursor; one that we did not write is not found, rather than an error of the database."""
        cursor: Cursor | None = super().decode_cursor(request)
        if cursor is not None and cursor.position is not None:
            try:
                if not -(2**63) <= int(cursor.position) < 2**63:
                    raise ValidationError("out of range")
            except (ValueError, ValidationError):
                raise NotFound(self.invalid_cursor_message) from None
        return cursor
