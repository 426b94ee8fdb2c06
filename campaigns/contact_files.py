"""Contacts out of a CSV file as people's programs write it, one line at a time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import IO, Any

from campaigns.contact_rows import FIELDS, PLATFORMS, NotAContact
from tenants.errors import ActionRefused

DELIMITERS = ",;\t"
HINT = "save it as CSV in UTF-8"
PLAIN = frozenset(FIELDS) - {"attributes", "accounts"}
ACCOUNT_COLUMNS = {name: (name, "username") for name in PLATFORMS} | {
    f"{name}_id": (name, "user_id") for name in PLATFORMS
}
OWN_COLUMNS = ("line", "reasons")
"""What `import_contacts` adds to rows it rejects; passed over, so that a mended file can be imported."""


class FileRefused(ActionRefused):
    """The file as a whole cannot be read, so nothing of it went in."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Where each field is: cell numbers by field, by attribute and by account."""

    count: int
    plain: list[tuple[int, str]]
    attributes: list[tuple[int, str]]
    document: int | None  # a column of JSON objects
    accounts: list[tuple[int, str, str]]  # cell, platform, user_id or username

    def read(self, cells: list[str]) -> dict[str, Any]:
        """Return a line's cells under the names of the API. Raises `NotAContact`.

        Attributes stay text: whether `01234` is a number is for whoever compares it (campaigns.segments).
        """
        if len(cells) != self.count:
            raise NotAContact([f"has {len(cells)} cells where the header has {self.count}"])
        row: dict[str, Any] = {name: cells[at] for at, name in self.plain}
        attributes = self._document(cells)
        for at, key in self.attributes:
            if cell := cells[at].strip():
                attributes[key] = cell
        if attributes:
            row["attributes"] = attributes
        accounts: dict[str, dict[str, str]] = {}
        for at, platform, kind in self.accounts:
            if cell := cells[at].strip():
                accounts.setdefault(platform, {"platform": platform})[kind] = cell
        if accounts:
            row["accounts"] = list(accounts.values())
        return row

    def _document(self, cells: list[str]) -> dict[str, Any]:
        if self.document is None or not cells[self.document].strip():
            return {}
        try:
            value = json.loads(cells[self.document])
        except (ValueError, RecursionError):
            raise NotAContact(["attributes: is not a JSON object"]) from None
        if not isinstance(value, dict):
            raise NotAContact(["attributes: is not a JSON object"])
        return value


def read_contacts(file: IO[bytes]) -> Iterator[tuple[int, dict[str, Any] | NotAContact]]:
    """Yield each line's number (as an editor counts, the header is 1) with its contact or what is wrong.

    Reads as it goes, so a file of any size takes the same memory. Raises `FileRefused`, with what to do,
    for a file that is no CSV of contacts: before the first line, or at the line where it turns out.
    """
    _refuse_other_formats(file)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    line = 1
    try:
        header = text.readline(65_536)
        if not header.strip():
            raise FileRefused("the file is empty: its first line must name the columns")
        columns, delimiter = _read_header(header)
        lines = csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            line = lines.line_num + 2
            try:
                cells = next(lines)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end" in str(error) or "field limit" in str(error):
                    raise FileRefused(f'line {line}: a quote (") is opened there and never closed') from None
                yield line, NotAContact(['has a quote (") in the wrong place'])
                continue
            if not any(cells):
                continue
            try:
                yield line, columns.read(cells)
            except NotAContact as error:
                yield line, error
    except UnicodeDecodeError:
        raise FileRefused(f"the file is not UTF-8 (after line {line}): {HINT}") from None
    finally:
        text.detach()  # the file is the caller's to close


def read_cells(file: IO[bytes], lines: Container[int]) -> Iterator[tuple[int, list[str]]]:
    """Yield the header and the given lines of a file that `read_contacts` has read, as they stand in it."""
    file.seek(0)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    header = text.readline(65_536)
    _, delimiter = _read_header(header)
    yield 1, next(csv.reader([header], delimiter=delimiter))
    reader = csv.reader(text, delimiter=delimiter)
    line = 2
    for cells in reader:
        if line in lines:
            yield line, cells
        line = reader.line_num + 2
    text.detach()


def _refuse_other_formats(file: IO[bytes]) -> None:
    start = file.read(4096)
    file.seek(0)
    if start.startswith(b"PK\x03\x04"):
        raise FileRefused(f"the file is a workbook or an archive, not CSV: {HINT}")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileRefused(f"the file is in UTF-16: {HINT}")
    if b"\x00" in start:
        raise FileRefused(f"the file is binary, not CSV: {HINT}")


def _read_header(line: str) -> tuple[Columns, str]:
    """Find the delimiter and the columns. The delimiter is the one that yields an external_id."""
    readings = {}
    for delimiter in DELIMITERS:
        try:
            cells = next(csv.reader([line], delimiter=delimiter, strict=True))
        except (csv.Error, StopIteration):
            continue
        names = readings[delimiter] = [_column_name(cell) for cell in cells]
        if "external_id" in names:
            return _columns(names), delimiter
    names = max(readings.values(), key=len, default=[])
    found = ", ".join(name[:40] for name in names[:8]) or "nothing readable"
    raise FileRefused(f"there is no column external_id in the first line (found: {found})")


def _column_name(cell: str) -> str:
    name = cell.strip()
    lower = name.lower()
    if lower.startswith("attributes."):
        return "attributes." + name[len("attributes.") :].strip()  # a key keeps its capitals
    return lower.replace(" ", "_")


def _columns(names: list[str]) -> Columns:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise FileRefused(f"two columns are called {twice[0] or 'nothing at all'}: keep one")
    columns = Columns(len(names), [], [], names.index("attributes") if "attributes" in names else None, [])
    for at, name in enumerate(names):
        if name in PLAIN:
            columns.plain.append((at, name))
        elif name in ACCOUNT_COLUMNS:
            columns.accounts.append((at, *ACCOUNT_COLUMNS[name]))
        elif name.startswith("attributes.") and name != "attributes.":
            columns.attributes.append((at, name.removeprefix("attributes.")))
        elif name != "attributes" and name not in OWN_COLUMNS:
            known = ", ".join(sorted(PLAIN | set(ACCOUNT_COLUMNS)))
            raise FileRefused(
                f"unknown column {name[:40]!r}: call it attributes.{name[:40] or 'name'} to keep it, "
                f"or use one of {known}"
            )
    return columns
