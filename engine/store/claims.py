"""The verbs that move requests: list, claim, mark as leaving, give back, recover, nudge.

Each is one statement over all lanes, whatever their number. All of them name the run that acts; claiming and
marking also ask whether that run still holds the lane, so that a runner which stood still past its lease can
neither take rows nor let a request leave. Rows that others may be writing are locked by id, in order, and one
that somebody holds is passed over: what all lanes share must not wait for one tenant's row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import UUID

from psycopg import Cursor

from engine.processor.contract import Processor, Request, Stale

IN_HAND = "('claimed', 'sending', 'in_doubt')"
"""States that are still the run's to decide. In doubt as well: it was never called for again, so a late
answer is the truth."""
DIED = "the process that called died meanwhile"


@dataclass(slots=True, frozen=True)
class Flow:
    """Rows of one lane that wait behind each other. `due_in` is in seconds, 0 or less when due."""

    lane_id: int
    flow: int
    rank: int
    due_in: float


@dataclass(slots=True, frozen=True)
class Want:
    """Up to `rows` due rows of one flow on one lane."""

    lane_id: int
    flow: int
    rows: int


def skip_scan(processor: Processor) -> str:
    """A statement's beginning that finds (lane_id, flow, due_at): every flow with queued rows, and its first.

    It reads one row of the due index for each flow, so what is due later (retries, recurring requests:
    possibly millions) is not read.
    """
    table, flow = processor.model._meta.db_table, processor.flow
    return f"""
        WITH RECURSIVE found AS (
            (SELECT lane_id, {flow} AS flow, due_at FROM {table}
              WHERE state = 'queued' ORDER BY lane_id, {flow}, due_at LIMIT 1)
            UNION ALL
            SELECT next.* FROM found CROSS JOIN LATERAL (
                SELECT lane_id, {flow}, due_at FROM {table}
                 WHERE state = 'queued' AND (lane_id, {flow}) > (found.lane_id, found.flow)
                 ORDER BY lane_id, {flow}, due_at LIMIT 1) AS next
        )"""


def runnable(processor: Processor, flow: str) -> str:
    """A condition on a flow's column: the application lets it run, and nobody holds it."""
    return f"""{processor.runnable.format(flow=flow)}
        AND NOT EXISTS (SELECT FROM engine_flowhold AS h
                         WHERE h.processor = '{processor.name}' AND h.flow = {flow})"""


class Claims:
    """A processor's statements, written once from its table and columns."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        table, flow = processor.model._meta.db_table, processor.flow
        columns = "".join(f", m.{name}" for name in processor.columns)
        in_doubt = processor.stale is Stale.IN_DOUBT

        may_run = partial(runnable, processor)

        def locked(which: str) -> str:
            return f"ARRAY(SELECT id FROM {table} WHERE {which} ORDER BY id FOR NO KEY UPDATE SKIP LOCKED)"

        free = locked("id = ANY(%(ids)s::bigint[])")
        left_behind = locked(
            "lane_id = ANY(%(lanes)s::bigint[]) AND state IN ('claimed', 'sending')"
            " AND run IS DISTINCT FROM (SELECT holder FROM engine_lane AS l WHERE l.id = lane_id)"
        )
        unknown = locked(
            "lane_id = ANY(%(lanes)s::bigint[]) AND state = 'claimed' AND run = %(run)s"
            " AND id <> ALL(%(ids)s::bigint[])"
        )

        self._flows = f"""{skip_scan(processor)}
            SELECT found.lane_id, found.flow, ({processor.flow_rank.format(flow="found.flow")})::int,
                   extract(epoch FROM greatest(found.due_at, l.open_until, (
                       SELECT max(coalesce(a.resets_at, now())) FROM engine_allowanceleft AS a
                        WHERE a.token_id = l.token_id AND a.unit = 'calls' AND a.left_over = 0)) - now()
                   )::float8
              FROM found
              JOIN engine_lane AS l
                ON l.id = found.lane_id AND l.paused_at IS NULL AND l.processor = '{processor.name}'
             WHERE {may_run("found.flow")}"""

        self._claim = f"""
            UPDATE {table} AS m SET state = 'claimed', run = %(run)s
             WHERE m.id = ANY(ARRAY(
                SELECT pick.id
                  FROM unnest(%(lanes)s::bigint[], %(flows)s::bigint[], %(counts)s::int[])
                       AS want(lane, flow, n)
                  JOIN engine_lane AS l ON l.id = want.lane AND l.holder = %(run)s AND l.leased_until > now()
                 CROSS JOIN LATERAL (
                    SELECT id FROM {table}
                     WHERE lane_id = want.lane AND {flow} = want.flow AND state = 'queued' AND due_at <= now()
                     ORDER BY due_at, id LIMIT want.n FOR UPDATE SKIP LOCKED) AS pick))
            RETURNING m.id, m.tenant_id, m.lane_id, m.{flow}, m.attempts, m.attempt,
                      extract(epoch FROM m.due_at)::float8{columns}"""

        self._mark = f"""
            UPDATE {table} AS m SET state = 'sending', attempt = r.attempt
              FROM unnest(%(ids)s::bigint[], %(attempts)s::uuid[]) AS r(id, attempt), engine_lane AS l
             WHERE m.id = r.id AND m.id = ANY({free})
               AND m.run = %(run)s AND m.state IN ('claimed', 'sending')
               AND l.id = m.lane_id AND l.holder = %(run)s AND l.leased_until > now()
               AND {may_run(f"m.{flow}")}
            RETURNING m.id"""

        self._give_back = f"""
            UPDATE {table} SET state = 'queued', run = NULL, nudged = false, in_doubt_at = NULL,
                   attempts = attempts - (state = 'in_doubt')::int,
                   attempt = CASE WHEN id = ANY(%(begun)s::bigint[]) THEN attempt END,
                   error_detail = CASE WHEN state = 'in_doubt' THEN '' ELSE error_detail END
             WHERE id = ANY({free}) AND run = %(run)s AND state IN {IN_HAND}"""

        self._still_mine = f"""
            SELECT id FROM {table}
             WHERE id = ANY(%(ids)s::bigint[]) AND run = %(run)s AND state IN {IN_HAND}"""

        self._wait_for = f"SELECT FROM {table} WHERE id = %(id)s FOR NO KEY UPDATE"

        self._recover = f"""
            UPDATE {table} AS m
               SET state = CASE WHEN m.state = 'sending' AND {in_doubt} THEN 'in_doubt' ELSE 'queued' END,
                   run = CASE WHEN m.state = 'sending' AND {in_doubt} THEN m.run END,
                   attempts = m.attempts + (m.state = 'sending' AND {in_doubt})::int,
                   in_doubt_at = CASE WHEN m.state = 'sending' AND {in_doubt} THEN now() END,
                   nudged = false,
                   error_detail = CASE WHEN m.state = 'sending' THEN '{DIED}' ELSE m.error_detail END
             WHERE m.id = ANY({left_behind})
            RETURNING m.state"""

        # Claimed by a commit whose acknowledgement was lost: the run's by the table, in nobody's hands.
        self._strays = f"""
            UPDATE {table} SET state = 'queued', run = NULL, nudged = false
             WHERE id = ANY({unknown})"""

        self._nudge = f"""
            UPDATE {table} SET due_at = CASE WHEN state = 'queued' THEN least(due_at, now()) ELSE due_at END,
                   nudged = state IN ('claimed', 'sending')
             WHERE id = ANY(ARRAY(SELECT id FROM {table} WHERE id = ANY(%(ids)s::bigint[])
                                   ORDER BY id FOR NO KEY UPDATE))
               AND state IN ('queued', 'claimed', 'sending')"""

        self._still_runnable = f"""
            SELECT m.{flow} FROM unnest(%(flows)s::bigint[]) AS m({flow}) WHERE {may_run(f"m.{flow}")}"""

        self._waiting = f"""
            SELECT coalesce(sum(depth.n), 0)::bigint
              FROM unnest(%(lanes)s::bigint[], %(flows)s::bigint[]) AS f(lane, flow)
             CROSS JOIN LATERAL (
                SELECT count(*) AS n FROM (
                    SELECT FROM {table} WHERE lane_id = f.lane AND {flow} = f.flow AND state = 'queued'
                     LIMIT %(most)s) AS counted) AS depth"""

        self._in_hand = f"""
            SELECT count(*) FROM {table} AS m
             WHERE m.state IN ('claimed', 'sending') AND {may_run(f"m.{flow}")}"""

    def flows(self, db: Cursor[Any]) -> list[Flow]:
        """List what may go out, due or not yet, with each flow's next due time."""
        return [Flow(*row) for row in db.execute(self._flows, prepare=True)]

    def claim(self, db: Cursor[Any], *, run: int, wanted: Sequence[Want]) -> list[Request]:
        """Take due rows, oldest first, from lanes that `run` holds."""
        parameters = {
            "run": run,
            "lanes": [want.lane_id for want in wanted],
            "flows": [want.flow for want in wanted],
            "counts": [want.rows for want in wanted],
        }
        names = self.processor.columns
        rows = db.execute(self._claim, parameters, prepare=True).fetchall()
        rows.sort(key=lambda row: (row[6], row[0]))
        return [
            Request(
                row[0],
                row[1],
                row[2],
                row[3],
                row[4],
                row[5],
                columns=dict(zip(names, row[7:], strict=True)),
                begun=row[5] is not None,
            )
            for row in rows
        ]

    def mark(self, db: Cursor[Any], *, run: int, requests: Iterable[Request]) -> set[int]:
        """Commit, before their calls leave, that these rows may be out. Returns those that may go."""
        ids, attempts = _columns((request.id, request.attempt) for request in requests)
        rows = db.execute(self._mark, {"run": run, "ids": ids, "attempts": attempts}, prepare=True)
        return {row[0] for row in rows}

    def give_back(self, db: Cursor[Any], *, run: int, requests: Iterable[Request]) -> int:
        """Return rows that certainly did not leave to the queue, as they were.

        Those that were declared in doubt while this run stood still, too: it knows better.
        """
        begun = {request.id: request.begun for request in requests}
        parameters = {"run": run, "ids": sorted(begun), "begun": [row for row, was in begun.items() if was]}
        return db.execute(self._give_back, parameters, prepare=True).rowcount

    def still_mine(self, db: Cursor[Any], *, run: int, ids: Sequence[int]) -> set[int]:
        """Of rows that a statement passed over, list those that are this run's to decide: they are locked."""
        rows = db.execute(self._still_mine, {"run": run, "ids": list(ids)}, prepare=True)
        return {row[0] for row in rows}

    def wait_for(self, db: Cursor[Any], row: int) -> None:
        """Lock one row, for as long as the transaction's lock_timeout waits."""
        db.execute(self._wait_for, {"id": row}, prepare=True)

    def recover(self, db: Cursor[Any], *, lanes: Sequence[int]) -> tuple[int, int]:
        """See to rows in hand of runs that do not hold these lanes any more. Returns (given back, in doubt).

        Only for lanes that were just taken or are locked. A row that somebody holds is left to the minute's
        tick (`find_strays`).
        """
        states = [row[0] for row in db.execute(self._recover, {"lanes": list(lanes)}, prepare=True)]
        return states.count("queued"), states.count("in_doubt")

    def strays(self, db: Cursor[Any], *, run: int, lanes: Sequence[int], known: Collection[int]) -> int:
        """Give back what this run claimed on these lanes and does not know of; returns how many."""
        parameters = {"run": run, "lanes": list(lanes), "ids": sorted(known)}
        return db.execute(self._strays, parameters, prepare=True).rowcount

    def nudge(self, db: Cursor[Any], ids: Collection[int]) -> int:
        """Make these rows due now; those in a runner's hands as soon as it puts them back."""
        return db.execute(self._nudge, {"ids": sorted(ids)}).rowcount

    def still_runnable(self, db: Cursor[Any], flows: Sequence[int]) -> set[int]:
        """Say which of these flows may go on."""
        return {row[0] for row in db.execute(self._still_runnable, {"flows": list(flows)}, prepare=True)}

    def waiting(self, db: Cursor[Any], flows: Sequence[Flow], *, most: int) -> int:
        """Count the queued rows of these flows, each up to `most`."""
        parameters = {"lanes": [f.lane_id for f in flows], "flows": [f.flow for f in flows], "most": most}
        row = db.execute(self._waiting, parameters, prepare=True).fetchone()
        return int(row[0]) if row else 0

    def in_hand(self, db: Cursor[Any]) -> int:
        """Count the rows in any runner's hands, dead ones' included."""
        row = db.execute(self._in_hand).fetchone()
        return int(row[0]) if row else 0


def _columns(pairs: Iterable[tuple[int, UUID | None]]) -> tuple[list[int], list[UUID | None]]:
    ordered = sorted(pairs)
    return [pair[0] for pair in ordered], [pair[1] for pair in ordered]
