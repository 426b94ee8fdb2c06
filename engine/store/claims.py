"""The four verbs that move rows: claim, mark as sending, settle, give back; and what a dead runner left.

Each is one statement over all lanes, whatever their number. All of them name the run that acts, and the
first two also ask whether that run still holds the lane, so that a runner which stood still past its lease
can neither take rows nor let a request leave. Rows are locked by primary key, in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from psycopg import Cursor

from engine.processor.contract import Item, Processor, Stale

LANES = "engine_lane"
IN_HAND = "m.state IN ('claimed', 'sending', 'in_doubt')"
"""A row that is still the run's to decide. In doubt as well: it was never called for again, so a late answer
is the truth."""


@dataclass(slots=True, frozen=True)
class Flow:
    """Rows of one lane that wait behind each other. `due_in` is in seconds, 0 or less when due."""

    lane_id: int
    flow: int
    due_in: float


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


class Claims:
    """A processor's statements, written once from its table and columns."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        table, flow = processor.model._meta.db_table, processor.flow
        runnable = processor.runnable.format(flow=f"m.{flow}")
        columns = "".join(f", m.{name}" for name in processor.columns)
        stale_state = "in_doubt" if processor.stale is Stale.IN_DOUBT else "queued"

        # Says nothing new, but the planner cannot know how many rows are a run's: without it, it reads
        # the whole table for them, several times a second.
        by_key = "m.id = ANY(%(ids)s::bigint[])"

        self._flows = f"""
            WITH RECURSIVE found AS (
                (SELECT lane_id, {flow} AS flow, due_at FROM {table}
                  WHERE state = 'queued' ORDER BY lane_id, {flow}, due_at LIMIT 1)
                UNION ALL
                SELECT next.* FROM found CROSS JOIN LATERAL (
                    SELECT lane_id, {flow}, due_at FROM {table}
                     WHERE state = 'queued' AND (lane_id, {flow}) > (found.lane_id, found.flow)
                     ORDER BY lane_id, {flow}, due_at LIMIT 1) AS next
            )
            SELECT found.lane_id, found.flow,
                   extract(epoch FROM greatest(
                       found.due_at, l.open_until,
                       CASE WHEN l.used >= l.allowance THEN l.window_ends_at END) - now())::float8
              FROM found JOIN {LANES} AS l ON l.id = found.lane_id AND l.paused_at IS NULL
             WHERE {processor.runnable.format(flow="found.flow")}"""

        self._claim = f"""
            UPDATE {table} AS m SET state = 'claimed', run = %(run)s
             WHERE m.id = ANY(ARRAY(
                SELECT pick.id
                  FROM unnest(%(lanes)s::bigint[], %(flows)s::bigint[], %(counts)s::int[])
                       AS want(lane, flow, n)
                  JOIN {LANES} AS l ON l.id = want.lane AND l.holder = %(run)s AND l.leased_until > now()
                 CROSS JOIN LATERAL (
                    SELECT id FROM {table}
                     WHERE lane_id = want.lane AND {flow} = want.flow AND state = 'queued' AND due_at <= now()
                     ORDER BY due_at, id LIMIT want.n FOR UPDATE SKIP LOCKED) AS pick))
            RETURNING m.id, m.tenant_id, m.lane_id, m.{flow}, m.attempts, m.attempt,
                      extract(epoch FROM m.due_at)::float8{columns}"""

        self._mark = f"""
            UPDATE {table} AS m SET state = 'sending', attempt = r.attempt
              FROM unnest(%(ids)s::bigint[], %(attempts)s::uuid[]) AS r(id, attempt), {LANES} AS l
             WHERE m.id = r.id AND {by_key} AND m.run = %(run)s AND m.state IN ('claimed', 'sending')
               AND l.id = m.lane_id AND l.holder = %(run)s AND l.leased_until > now()
               AND {runnable}
            RETURNING m.id"""

        stamps = "".join(
            f", {column} = CASE WHEN r.state = '{state}' AND {mine} THEN now() ELSE m.{column} END"
            for column, state, mine in (
                (processor.done_stamp, processor.done_state, f"m.{processor.done_stamp} IS NULL"),
                (processor.failed_stamp, processor.failed_state, IN_HAND),
            )
            if column
        )
        result_types = "".join(f", {name} {kind}" for name, kind in processor.results.items())
        result_sets = "".join(f", {name} = coalesce(r.{name}, m.{name})" for name in processor.results)
        self._settle = f"""
            UPDATE {table} AS m
               SET state = CASE WHEN {IN_HAND} THEN r.state ELSE m.state END,
                   due_at = coalesce(now() + r.delay * interval '1 second', m.due_at),
                   attempts = coalesce(r.attempts, m.attempts),
                   error_code = CASE WHEN {IN_HAND} THEN r.code ELSE m.error_code END,
                   error_detail = CASE WHEN {IN_HAND} THEN r.detail ELSE m.error_detail END,
                   attempt = CASE WHEN r.forget AND {IN_HAND} THEN NULL ELSE m.attempt END,
                   run = CASE WHEN r.state = 'queued' THEN NULL ELSE m.run END{stamps}{result_sets}
              FROM jsonb_to_recordset(%(rows)s::jsonb) AS r(
                   id bigint, state text, delay float8, attempts int, code text, detail text, forget bool
                   {result_types})
             WHERE m.id = r.id AND {by_key} AND m.run = %(run)s
            RETURNING m.state = r.state"""

        self._give_back = f"""
            UPDATE {table} SET state = 'queued', run = NULL
             WHERE id = ANY(%(ids)s::bigint[]) AND run = %(run)s
               AND state IN ('claimed', 'sending', 'in_doubt')"""

        self._recover = f"""
            UPDATE {table} AS m
               SET state = CASE m.state WHEN 'sending' THEN '{stale_state}' ELSE 'queued' END,
                   run = CASE WHEN m.state = 'sending' AND '{stale_state}' = 'in_doubt' THEN m.run END,
                   attempts = m.attempts + (m.state = 'sending' AND '{stale_state}' = 'in_doubt')::int,
                   error_detail = CASE WHEN m.state = 'sending' THEN 'the process that called died meanwhile'
                                       ELSE m.error_detail END
             WHERE m.id = ANY(ARRAY(
                SELECT id FROM {table}
                 WHERE lane_id = ANY(%(lanes)s::bigint[]) AND state IN ('claimed', 'sending')
                   AND run IS DISTINCT FROM %(run)s ORDER BY id FOR UPDATE))
            RETURNING m.state"""

        self._still_runnable = f"""
            SELECT m.{flow} FROM unnest(%(flows)s::bigint[]) AS m({flow}) WHERE {runnable}"""

        self._waiting = f"""
            SELECT coalesce(sum(depth.n), 0)::bigint
              FROM unnest(%(lanes)s::bigint[], %(flows)s::bigint[]) AS f(lane, flow)
             CROSS JOIN LATERAL (
                SELECT count(*) AS n FROM (
                    SELECT FROM {table} WHERE lane_id = f.lane AND {flow} = f.flow AND state = 'queued'
                     LIMIT %(most)s) AS counted) AS depth"""

        self._in_hand = f"""
            SELECT count(*) FROM {table} AS m WHERE m.state IN ('claimed', 'sending') AND {runnable}"""

    def flows(self, cursor: Cursor[Any]) -> list[Flow]:
        """List what could be claimed, with each flow's next due time, by a skip scan of the due index."""
        return [Flow(*row) for row in cursor.execute(self._flows, prepare=True)]

    def claim(self, cursor: Cursor[Any], *, run: int, wanted: Sequence[tuple[int, int, int]]) -> list[Item]:
        """Take up to n due rows of each (lane, flow, n), oldest first, from lanes that `run` holds."""
        lanes, flows, counts = (list(part) for part in zip(*wanted, strict=True))
        names = self.processor.columns
        rows = cursor.execute(
            self._claim, {"run": run, "lanes": lanes, "flows": flows, "counts": counts}, prepare=True
        ).fetchall()
        rows.sort(key=lambda row: (row[6], row[0]))
        return [
            Item(row[0], row[1], row[2], row[3], row[4], row[5], dict(zip(names, row[7:], strict=True)))
            for row in rows
        ]

    def mark(self, cursor: Cursor[Any], *, run: int, items: Iterable[Item]) -> set[int]:
        """Commit, before their requests leave, that these rows may be out. Returns those that may go."""
        ids, attempts = _columns((item.id, item.attempt) for item in items)
        rows = cursor.execute(self._mark, {"run": run, "ids": ids, "attempts": attempts}, prepare=True)
        return {row[0] for row in rows}

    def settle(self, cursor: Cursor[Any], *, run: int, settlements: Sequence[Settlement]) -> int:
        """Write what became of the rows. Returns how many were still the run's to decide.

        A webhook may have decided first; then only what it cannot know is added: the attempts, the id.
        Doing it twice, after a commit whose answer was lost, changes nothing more.
        """
        settlements = sorted(settlements, key=lambda s: s.id)
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
        parameters = {"run": run, "ids": [s.id for s in settlements], "rows": orjson.dumps(rows).decode()}
        return sum(row[0] for row in cursor.execute(self._settle, parameters, prepare=True))

    def give_back(self, cursor: Cursor[Any], *, run: int, ids: Sequence[int]) -> int:
        """Return rows that certainly did not leave to the queue, as they were.

        Those that were declared in doubt while this run stood still, too: it knows better.
        """
        return cursor.execute(self._give_back, {"run": run, "ids": sorted(ids)}, prepare=True).rowcount

    def recover(
        self, cursor: Cursor[Any], *, lanes: Sequence[int], run: int | None = None
    ) -> tuple[int, int]:
        """See to the rows that dead runners left on these lanes. Returns (given back, in doubt).

        Only for lanes whose lease is held by `run`, or by nobody and locked.
        """
        states = [
            row[0] for row in cursor.execute(self._recover, {"lanes": list(lanes), "run": run}, prepare=True)
        ]
        return states.count("queued"), states.count("in_doubt")

    def still_runnable(self, cursor: Cursor[Any], flows: Sequence[int]) -> set[int]:
        """Say which of these flows may go on."""
        return {row[0] for row in cursor.execute(self._still_runnable, {"flows": list(flows)}, prepare=True)}

    def waiting(self, cursor: Cursor[Any], flows: Sequence[Flow], *, most: int) -> int:
        """Count the queued rows of these flows, each up to `most`."""
        parameters = {"lanes": [f.lane_id for f in flows], "flows": [f.flow for f in flows], "most": most}
        row = cursor.execute(self._waiting, parameters, prepare=True).fetchone()
        return int(row[0]) if row else 0

    def in_hand(self, cursor: Cursor[Any]) -> int:
        """Count the rows in any runner's hands, dead ones' included."""
        row = cursor.execute(self._in_hand).fetchone()
        return int(row[0]) if row else 0


def _columns(pairs: Iterable[tuple[int, UUID | None]]) -> tuple[list[int], list[UUID | None]]:
    ordered = sorted(pairs)
    return [pair[0] for pair in ordered], [pair[1] for pair in ordered]
