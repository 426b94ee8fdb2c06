"""The UUID that names one attempt at one row, and leads back to the row without a look-up.

A vendor that echoes it in a webhook tells us the row's primary key: no index on random UUIDs has to be
kept on the busiest table. Layout (RFC 9562 UUIDv8, whose bits are the application's own): 48 bits of
row id, version, 12 bits of row id, variant, 10 bits of attempt number, 52 random bits.
"""

from __future__ import annotations

import random
from uuid import UUID

_ROW_BITS = 60
_VERSION_AND_VARIANT = (8 << 76) | (2 << 62)


def new_attempt(row_id: int, number: int) -> UUID:
    """Name attempt `number` (from 1) at row `row_id`."""
    if not 0 <= row_id < 1 << _ROW_BITS:
        raise ValueError(f"row id out of range: {row_id}")
    return UUID(
        int=(row_id >> 12) << 80
        | (row_id & 0xFFF) << 64
        | (number & 0x3FF) << 52
        | random.getrandbits(52)  # a name, not a secret: whoever echoes it has signed for it
        | _VERSION_AND_VARIANT
    )


def row_of(attempt: UUID) -> int | None:
    """Say which row an attempt was for; None when the UUID is not one of ours."""
    if attempt.version != 8:
        return None
    return (attempt.int >> 80) << 12 | (attempt.int >> 64) & 0xFFF


def number_of(attempt: UUID) -> int:
    """Say which attempt at its row this was, from 1."""
    return (attempt.int >> 52) & 0x3FF
