"""The admin's import of contacts: django-import-export's pages over our own import.

Its row-by-row way through the ORM is not taken: the file goes to `import_contacts` as it is, first in a
transaction that is rolled back, for the preview, then, once confirmed, for good.
"""

from __future__ import annotations

import io
from typing import Any

from django.db import transaction
from import_export import resources
from import_export.formats.base_formats import CSV
from import_export.results import Result, RowResult

from campaigns.actions import import_contacts
from campaigns.contact_files import ACCOUNT_COLUMNS, PLAIN, read_contacts
from campaigns.imports import ImportReport
from campaigns.models import Contact
from tenants.scope import current_scope

SHOWN = 200


class ContactFile(CSV):
    """A CSV file kept as bytes, since contacts are read a line at a time."""

    def get_title(self) -> str:
        return "CSV"

    def is_binary(self) -> bool:
        return True

    def get_read_mode(self) -> str:
        return "rb"

    def can_export(self) -> bool:
        return False

    def create_dataset(self, in_stream: bytes, **kwargs: Any) -> bytes:
        """Return the bytes themselves. Raises `FileRefused` if they cannot be read to the last line."""
        for _ in read_contacts(io.BytesIO(in_stream)):
            pass
        return in_stream


class Column:
    """A column's name on the upload page."""

    def __init__(self, name: str) -> None:
        self.column_name = name


class ContactResource(resources.ModelResource):
    class Meta:
        model = Contact
        name = "contacts"

    def get_user_visible_fields(self) -> list[Any]:
        names = [*sorted(PLAIN), *ACCOUNT_COLUMNS, "attributes.<key>"]
        return [Column(name) for name in names]

    def import_data(self, dataset: bytes, dry_run: bool = False, **kwargs: Any) -> Result:
        """Import a file, or say what importing it would do."""
        with transaction.atomic():
            report = import_contacts(tenant_id=int(current_scope()), file=io.BytesIO(dataset))
            if dry_run:
                transaction.set_rollback(True)
        return _told(report)


def _told(report: ImportReport) -> Result:
    """Show what goes in as two lines and each rejected row as one that is skipped: none of them an error,
    so that the good rows can be confirmed."""
    result = Result()
    result.diff_headers = ["Line", "What happens"]
    result.total_rows = report.created + report.updated + report.unchanged + report.rejected_count
    result.totals[RowResult.IMPORT_TYPE_NEW] = report.created
    result.totals[RowResult.IMPORT_TYPE_UPDATE] = report.updated
    result.totals[RowResult.IMPORT_TYPE_SKIP] = report.rejected_count
    lines: list[tuple[str, object, str]] = [
        (RowResult.IMPORT_TYPE_NEW, "", f"{report.created:,} contacts are created"),
        (
            RowResult.IMPORT_TYPE_UPDATE,
            "",
            f"{report.updated:,} are changed, {report.unchanged:,} stay as is",
        ),
    ]
    lines += [(RowResult.IMPORT_TYPE_SKIP, row, "; ".join(why)) for row, why in report.rejected[:SHOWN]]
    if report.rejected_count > SHOWN:
        lines.append(
            (RowResult.IMPORT_TYPE_SKIP, "", f"… and {report.rejected_count - SHOWN:,} more rejected")
        )
    for kind, line, what in lines:
        row = RowResult()
        row.import_type, row.diff = kind, [line, what]
        result.append_row_result(row)
    return result
