"""What each outcome does to its row: one table, and one statement that writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson
from psycopg import Cursor

from engine.processor.contract import Processor, Request, Stale
from engine.processor.counts import Counts
from engine.store.claims import IN_HAND
from providers.base import Continue, Done, Failed, Hold, InDoubt, Outcome, Retry, Throttled

CODE_LENGTH, DETAIL_LENGTH = 32, 500
UNPAID = "allowance"
UNPAID_WAIT = timedelta(minutes=1)
"""How long a request waits for an allowance that is too small for its call."""


@dataclass(slots=True)
class Settlement:
    """What one row becomes. `delay` in seconds moves its due time; `attempts` are those used up by now, None
    for no more than before; `forget` drops the attempt's name, since it certainly did nothing."""

    id: int
    state: str
    delay: float | None = None
    attempts: int | None = None
    code: str = ""
    detail: str = ""
    forget: bool = False
    fields: Mapping[str, Any] | None = None


def unpaid(unit: str) -> Throttled:
    """Put a request off whose call costs more of `unit` than the token has left."""
    return Throttled(UNPAID_WAIT, None, UNPAID, f"too few {unit} left")


def settlement(processor: Processor, request: Request, outcome: Outcome) -> Settlement:
    """Say what the row becomes.

    | outcome     | state                | due           | attempts | attempt's name |
    |-------------|----------------------|---------------|----------|----------------|
    | Done        | done, or its `state` |               | +1       | kept           |
    | Done(again) | queued               | after `again` | 0        | dropped        |
    | Continue    | queued               | `after`       |          | kept, unless `forget` |
    | Retry       | queued, last: failed | by the policy | +1       | dropped        |
    | Throttled   | queued               | `after`       |          | dropped        |
    | Failed      | failed               |               | +1       | kept           |
    | InDoubt     | in_doubt             |               | +1       | kept           |
    | Hold        | queued               | as it was     |          | dropped        |

    What begins something paid (`Stale.LOOK_AGAIN`) keeps its name through every outcome but an end and
    `Continue(forget)`: until the vendor has said what became of it, it is looked for first.
    """
    used = request.attempts + 1
    drops = processor.stale is not Stale.LOOK_AGAIN
    match outcome:
        case Done(fields=fields, detail=detail, again=again) if again is not None:
            delay = again.total_seconds()
            return Settlement(request.id, "queued", delay, 0, "", detail, True, fields)
        case Done(fields=fields, state=state, detail=detail):
            end = state or processor.done_state
            return Settlement(request.id, end, None, used, "", _short(detail), fields=fields)
        case Continue(fields=fields, after=after, forget=forget):
            return Settlement(request.id, "queued", after.total_seconds(), forget=forget, fields=fields)
        case Retry(code, detail, after):
            wait = processor.retry_delay(used)
            code, detail = code[:CODE_LENGTH], _short(detail)
            if wait is None:
                return Settlement(request.id, processor.failed_state, None, used, code, detail)
            delay = (after or wait).total_seconds()
            return Settlement(request.id, "queued", delay, used, code, detail, drops)
        case Throttled(after, _, code, detail):
            delay, code = after.total_seconds(), code[:CODE_LENGTH]
            unbegun = code == UNPAID and not request.begun  # it never left
            return Settlement(request.id, "queued", delay, None, code, _short(detail), drops or unbegun)
        case Failed(code, detail):
            code = code[:CODE_LENGTH]
            return Settlement(request.id, processor.failed_state, None, used, code, _short(detail))
        case InDoubt(detail):
            return Settlement(request.id, "in_doubt", None, used, "", _short(detail))
        case Hold(_, _, code, detail):
            code = code[:CODE_LENGTH]
            return Settlement(request.id, "queued", None, None, code, _short(detail), drops)


def count(processor: Processor, settled: Sequence[tuple[Settlement, Outcome]], counts: Counts) -> None:
    """Count outcomes by what became of their rows."""
    for row, outcome in settled:
        match outcome:
            case Done():
                counts.done += 1
            case Continue():
                counts.continued += 1
            case Retry() if row.state == "queued":
                counts.retried += 1
            case Throttled():
                counts.throttled += 1
            case InDoubt():
                counts.in_doubt += 1
            case Hold():
                counts.held += 1
            case Failed(code) if code in processor.honest:
                counts.done += 1
            case _:
                counts.failed += 1
        if isinstance(outcome, Done | Continue):
            counts.facts += len(outcome.facts)


class Settle:
    """A processor's settling statement, written once from its table and columns."""

    def __init__(self, processor: Processor) -> None:
        table = processor.model._meta.db_table
        stamps = "".join(
            f", {column} = CASE WHEN r.state = '{state}' AND {mine} THEN now() ELSE m.{column} END"
            for column, state, mine in (
                (processor.done_stamp, processor.done_state, f"m.{processor.done_stamp} IS NULL"),
                (processor.failed_stamp, processor.failed_state, "mine.open"),
            )
            if column
        )
        types = "".join(f", {name} {kind}" for name, kind in processor.results.items())
        fields = "".join(f", {name} = coalesce(r.{name}, m.{name})" for name in processor.results)
        # "m.id = ANY" says nothing new, but the planner cannot know how few rows are meant: without it,
        # it reads the whole table for them, several times a second.
        self._statement = f"""
            WITH mine AS MATERIALIZED (
                SELECT id, state IN {IN_HAND} AS open FROM {table}
                 WHERE id = ANY(%(ids)s::bigint[]) AND run = %(run)s ORDER BY id
                   FOR NO KEY UPDATE SKIP LOCKED
            )
            UPDATE {table} AS m
               SET state = CASE WHEN mine.open THEN r.state ELSE m.state END,
                   due_at = CASE WHEN m.nudged AND r.state = 'queued' THEN now()
                                 ELSE coalesce(now() + r.delay * interval '1 second', m.due_at) END,
                   nudged = false,
                   attempts = coalesce(r.attempts, m.attempts),
                   error_code = CASE WHEN mine.open THEN r.code ELSE m.error_code END,
                   error_detail = CASE WHEN mine.open THEN r.detail ELSE m.error_detail END,
                   attempt = CASE WHEN r.forget AND mine.open THEN NULL ELSE m.attempt END,
                   in_doubt_at = CASE WHEN mine.open AND r.state = 'in_doubt'
                                      THEN coalesce(m.in_doubt_at, now()) END,
                   run = CASE WHEN r.state = 'queued' THEN NULL ELSE m.run END{stamps}{fields}
              FROM jsonb_to_recordset(%(rows)s::jsonb) AS r(
                   id bigint, state text, delay float8, attempts int, code text, detail text, forget bool
                   {types}),
                   mine
             WHERE m.id = r.id AND mine.id = r.id AND m.id = ANY(%(ids)s::bigint[])
            RETURNING m.id, mine.open"""

    def write(self, db: Cursor[Any], *, run: int, settlements: Sequence[Settlement]) -> set[int]:
        """Write what became of the rows. Returns those that were still the run's to decide."""
        found = self.write_free(db, run=run, settlements=settlements)
        return {row for row, decided in found.items() if decided}

    def write_free(
        self, db: Cursor[Any], *, run: int, settlements: Sequence[Settlement]
    ) -> Mapping[int, bool]:
        """Write what became of the rows: {row: was it still the run's to decide}, without those passed over
        because somebody holds them.

        A webhook may have decided first; then only what it cannot know is added: the attempts, the id.
        Doing it twice, after a commit whose answer was lost, changes nothing more.
        """
        rows = [
            {
                "id": s.id,
                "state": s.state,
                "delay": s.delay,
                "attempts": s.attempts,
                "code": s.code,
                "detail": s.detail,
                "forget": s.forget,
                **(s.fields or {}),
            }
            for s in settlements
        ]
        parameters = {
            "run": run,
            "ids": [s.id for s in settlements],
            "rows": orjson.dumps(rows, default=str).decode(),
        }
        return dict(db.execute(self._statement, parameters, prepare=True).fetchall())


def _short(detail: str) -> str:
    return detail if len(detail) <= DETAIL_LENGTH else detail[: DETAIL_LENGTH - 1] + "…"
