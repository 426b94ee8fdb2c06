"""How much to claim at a time: more when more is waiting, never more than the lane can do soon."""

from __future__ import annotations

BATCH_SIZES = ((5_000, 1_000), (2_000, 500), (500, 200), (0, 100))
"""(rows waiting, rows to claim): the first whose queue is exceeded counts."""

AHEAD_SECONDS = 2.0
"""A lane is given what it can do in this time, so that a pause or a crash leaves little in hand."""

MOST_IN_HAND = 3_000
"""Rows that one runner holds in memory over all its lanes."""


def batch_size(waiting: int) -> int:
    """Rows to claim when `waiting` rows are due."""
    return next(size for over, size in BATCH_SIZES if waiting > over or over == 0)


def window(*, waiting: int, per_second: float | None, lanes: int, seconds_left: float) -> int:
    """Rows that a lane should have in hand: its batch, what it can do before its deadline, its fair part.

    `per_second` is in calls; None when nobody knows yet.
    """
    size = batch_size(waiting)
    if per_second is not None:
        size = min(size, max(int(per_second * min(AHEAD_SECONDS, max(seconds_left, 0.0))), 1))
    return max(min(size, MOST_IN_HAND // max(lanes, 1)), 1)
