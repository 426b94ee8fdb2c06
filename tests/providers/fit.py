"""Whether a value that a provider read fits what it is written to."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from typing import Any

LONGEST = 4_096
"""Characters of the longest text that anything of a vendor's is kept in."""


def unfit(value: Any) -> list[str]:
    """List the texts inside `value` (dataclasses, dicts, lists) that PostgreSQL or people cannot take."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, str):
        bad = any((ord(c) < 32 and c not in "\t\n\r") or 0x7F <= ord(c) < 0xA0 for c in value)
        lone = any(0xD800 <= ord(c) < 0xE000 for c in value)
        return [value] if bad or lone or len(value) > LONGEST else []
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in unfit(part)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in unfit(item)]
    return []
