"""What dead runners left: their lanes, their rows, their runs."""

from __future__ import annotations

from engine.processor.contract import Processor
from engine.store import allowances, leases
from engine.store.claims import Claims
from engine.store.runs import close_lost
from engine.store.session import cursor


def free_dead(processor: Processor, *, run: int | None = None) -> tuple[int, int]:
    """Free the lanes of runs that died, see to their rows, close the runs. Returns (given back, in doubt)."""
    db = cursor()
    expired = leases.free_expired(db, processor=processor.name, run=run)
    if not expired:
        return 0, 0
    lanes = list(expired)
    counts = Claims(processor).recover(db, lanes=lanes)
    allowances.forfeit(db, lanes=lanes)
    close_lost(sorted(set(expired.values())), processor)
    return counts


def find_strays(processor: Processor) -> tuple[int, int]:
    """See to rows in hand of runs that do not hold their lane any more. Returns (given back, in doubt).

    The lanes are locked meanwhile, so that nobody takes them and claims.
    """
    db = cursor()
    table = processor.model._meta.db_table
    lanes = [
        row[0]
        for row in db.execute(
            f"""SELECT l.id FROM engine_lane AS l
                 WHERE l.processor = %(processor)s
                   AND EXISTS (SELECT FROM {table} AS m
                                WHERE m.lane_id = l.id AND m.state IN ('claimed', 'sending')
                                  AND m.run IS DISTINCT FROM l.holder)
                 ORDER BY l.id FOR UPDATE OF l SKIP LOCKED""",
            {"processor": processor.name},
        )
    ]
    return Claims(processor).recover(db, lanes=lanes) if lanes else (0, 0)
