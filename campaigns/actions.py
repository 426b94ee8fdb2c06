"""What people and systems do with campaigns, contacts, segments and spins."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import IO

from campaigns import phones
from campaigns.contact_files import read_contacts
from campaigns.imports import ContactImport, ImportReport, Progress
from tenants.errors import ActionRefused
from tenants.scope import tenant_scope


class TooManyRows(ActionRefused):
    """More rows came than one request may bring; nothing went in."""


def import_contacts(
    *,
    tenant_id: int,
    rows: Iterable[object] | None = None,
    file: IO[bytes] | None = None,
    region: str | None = None,
    max_rows: int | None = None,
    on_progress: Progress | None = None,
    on_rejected: Callable[[int, list[str]], None] | None = None,
) -> ImportReport:
    """Create and update contacts by their external_id, from objects as in the API or from a CSV file.

    Good rows go in whatever the others are like; what a row leaves out stays as it is. Rows are numbered
    as their author counts: objects from 1, the lines of a file with its header as line 1. `region` (as `DE`)
    reads phone numbers without a country code. `on_progress` is told how many rows were read.

    All or nothing beyond that: raises ActionRefused, and changes nothing, for a file that cannot be read.
    """
    if region is not None and not phones.is_region(region):
        raise ActionRefused(f"{region!r} is no region: use two letters as in DE or US", field="region")
    if (rows is None) == (file is None):
        raise ValueError("give rows or a file")
    numbered: Iterable[tuple[int, object]]
    numbered = read_contacts(file) if file is not None else enumerate(rows or (), start=1)
    if max_rows is not None:
        numbered = _at_most(max_rows, numbered)
    with tenant_scope(tenant_id):
        run = ContactImport(tenant_id, on_rejected=on_rejected)
        return run.run(numbered, region=region, on_progress=on_progress)


def _at_most(limit: int, rows: Iterable[tuple[int, object]]) -> Iterator[tuple[int, object]]:
    for count, row in enumerate(rows, start=1):
        if count > limit:
            raise TooManyRows(f"more than {limit:,} rows: send them in parts, or use import_contacts")
        yield row
