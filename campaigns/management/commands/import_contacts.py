"""`import_contacts TENANT FILE.csv`: contacts from a file, with the rejected rows in another."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import IO, Any

from django.core.management.base import CommandParser
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from campaigns.actions import import_contacts
from campaigns.contact_files import OWN_COLUMNS, FileRefused, read_cells
from campaigns.imports import ImportReport
from tenants.errors import ActionRefused
from tenants.management.base import TurnoutCommand, find_tenant

SHOWN = 5


class Command(TurnoutCommand):
    help = "Import contacts from a CSV file. Rejected rows go to FILE.rejected.csv; the good ones go in."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tenant", help="slug or id")
        parser.add_argument("file", type=Path, metavar="FILE.csv")
        parser.add_argument("--region", metavar="XX", help="of numbers without a country code, e.g. DE")

    def handle(self, *args: Any, **options: Any) -> None:
        path: Path = options["file"]
        rejected = path.with_name(f"{path.name.removesuffix('.csv')}.rejected.csv")
        reasons: dict[int, str] = {}
        tenant = find_tenant(options["tenant"])
        try:
            with path.open("rb") as file:
                report = self._import(file, tenant.pk, options["region"], reasons)
                write_rejected(rejected, file, reasons)
        except FileRefused as refused:
            raise FileRefused(f"{path}: {refused.reason}") from None
        except OSError as error:
            raise ActionRefused(f"{error.filename or path}: {error.strerror or error}") from None
        self._tell(report, rejected)

    def _import(
        self, file: IO[bytes], tenant_id: int, region: str | None, reasons: dict[int, str]
    ) -> ImportReport:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        shown = console.is_terminal
        with Progress(*columns, console=console, transient=True, disable=not shown) as progress:
            size = os.fstat(file.fileno()).st_size
            bar = progress.add_task("reading", total=size or None)

            def told(rows: int) -> None:
                at = min(file.tell(), size)
                # what follows the last row is one statement, of which nothing can be told
                progress.update(bar, completed=at, description=f"{rows:,} rows" if at < size else "storing")

            return import_contacts(
                tenant_id=tenant_id,
                file=file,
                region=region.upper() if region else None,
                on_progress=told,
                on_rejected=lambda line, errors: reasons.update({line: "; ".join(errors)}),
            )

    def _tell(self, report: ImportReport, rejected: Path) -> None:
        for row, errors in report.rejected[:SHOWN]:
            self.stderr.write(f"line {row}: {'; '.join(errors)}")
        if report.rejected_count > SHOWN:
            self.stderr.write(f"… and {report.rejected_count - SHOWN:,} more, all in {rejected}")
        told = f"{report.created:,} created, {report.updated:,} updated, {report.unchanged:,} unchanged"
        where = f" (see {rejected})" if report.rejected_count else ""
        self.stdout.write(f"{told}, {report.rejected_count:,} rejected{where}")


def write_rejected(path: Path, file: IO[bytes], reasons: dict[int, str]) -> None:
    """Write the rejected rows as they came, each with its line and reasons: to mend and to import again.

    Without any, the file of an earlier import is removed, since it no longer says anything true.
    """
    if not reasons:
        path.unlink(missing_ok=True)
        return
    part = path.with_name(f"{path.name}.part")
    with part.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out)
        width = 0
        for line, cells in read_cells(file, reasons):
            width = width or len(cells)
            told = OWN_COLUMNS if line == 1 else (line, reasons[line])
            writer.writerow([*cells, *[""] * (width - len(cells)), *told])
    part.replace(path)
