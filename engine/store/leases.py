"""Who drains a lane and until when, and what the runner has to know of it.

A lease is taken and kept by conditional updates of the lane's own row, with PostgreSQL's clock. A holder that
cannot renew stops on its own clock a quarter of the lease early.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from psycopg import Cursor


@dataclass(slots=True, frozen=True)
class LaneRow:
    """A lane as its table has it, read as it is taken and again every second.

    `config` is JSON as stored. `units` are those that the token's allowances limit. `stopped` says why
    nothing may leave, "" when it may.
    """

    id: int
    tenant_id: int | None
    token_id: int
    name: str
    rate: float | None
    max_in_flight: int | None
    provider: str
    sealed_secret: str
    config: str
    units: tuple[str, ...]
    stopped: str


@dataclass(slots=True, frozen=True)
class Leased:
    """A lane just taken, and the pace that its last holder left. Its first send may leave in `paced_in` s."""

    row: LaneRow
    rate_now: float | None
    refused_rate: float | None
    grouped: bool
    openings: int
    paced_in: float


@dataclass(slots=True, frozen=True)
class Pace:
    """What a lane's next holder needs to go on at its pace."""

    rate_now: float | None
    refused_rate: float | None
    grouped: bool
    openings: int
    paced_in: float = 0.0


_ROW = """
    l.id, l.tenant_id, l.token_id, l.name, l.rate_per_second, l.max_in_flight, t.provider, t.sealed_secret,
    t.config, ARRAY(SELECT DISTINCT a.unit FROM engine_allowance AS a WHERE a.token_id = l.token_id)::text[],
    CASE WHEN l.paused_at IS NOT NULL THEN coalesce(nullif(l.pause_reason, ''), 'paused')
         WHEN l.open_until > now() THEN 'open' ELSE '' END"""

# Without calls left nothing can be asked; what a call costs beside is judged call by call.
# A lane that this run holds and does not know of was taken by a commit whose acknowledgement was lost.
_AVAILABLE = """
    processor = %(processor)s AND (holder IS NULL OR holder = %(run)s) AND paused_at IS NULL
    AND (open_until IS NULL OR open_until <= now())
    AND NOT EXISTS (SELECT FROM engine_allowanceleft AS left_over
                     WHERE left_over.token_id = engine_lane.token_id AND left_over.unit = 'calls'
                       AND left_over.left_over = 0)"""

_FREE_LANES = f"SELECT id FROM engine_lane WHERE id = ANY(%(ids)s::bigint[]) AND {_AVAILABLE}"

_ACQUIRE = f"""
    WITH free AS MATERIALIZED (
        SELECT id, paced_until FROM engine_lane
         WHERE id = ANY(%(ids)s::bigint[]) AND {_AVAILABLE}
         ORDER BY id LIMIT %(most)s FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE engine_lane AS l
           SET holder = %(run)s, leased_until = now() + %(lease)s * interval '1 second', open_until = NULL,
               breaker = CASE WHEN l.openings > 0 THEN 'half_open' ELSE 'closed' END
          FROM free WHERE l.id = free.id
        RETURNING l.*
    )
    SELECT {_ROW}, l.rate_now, l.refused_rate, l.grouped, l.openings,
           greatest(0, extract(epoch FROM l.paced_until - now()))::float8
      FROM taken AS l JOIN tenants_providertoken AS t ON t.id = l.token_id ORDER BY l.id"""

_READ = f"""
    SELECT {_ROW} FROM engine_lane AS l JOIN tenants_providertoken AS t ON t.id = l.token_id
     WHERE l.id = ANY(%(ids)s::bigint[]) AND l.holder = %(run)s"""

_EXPIRED = """
    SELECT id, holder FROM engine_lane
     WHERE processor = %(processor)s AND holder IS NOT NULL AND leased_until <= now()
       AND holder IS DISTINCT FROM %(run)s
     ORDER BY id FOR UPDATE SKIP LOCKED"""

_FREE = "UPDATE engine_lane SET holder = NULL, leased_until = NULL WHERE id = ANY(%(ids)s::bigint[])"

_FREE_ROWS = (
    "ARRAY(SELECT id FROM engine_lane WHERE id = ANY(%(ids)s::bigint[]) ORDER BY id FOR UPDATE SKIP LOCKED)"
)
_HELD = "SELECT id FROM engine_lane WHERE id = ANY(%(ids)s::bigint[]) AND holder = %(run)s"

_RENEW = f"""
    UPDATE engine_lane AS l
       SET leased_until = now() + %(lease)s * interval '1 second', rate_now = p.rate_now,
           refused_rate = p.refused_rate, grouped = p.grouped, openings = p.openings,
           breaker = CASE WHEN l.open_until > now() THEN l.breaker
                          WHEN p.openings > 0 THEN 'half_open' ELSE 'closed' END
      FROM unnest(%(ids)s::bigint[], %(rates)s::float8[], %(refused)s::float8[], %(grouped)s::bool[],
                  %(openings)s::int[]) AS p(id, rate_now, refused_rate, grouped, openings)
     WHERE l.id = p.id AND l.id = ANY({_FREE_ROWS}) AND l.holder = %(run)s
    RETURNING l.id"""

_RELEASE = f"""
    UPDATE engine_lane AS l
       SET holder = NULL, leased_until = NULL, rate_now = p.rate_now, refused_rate = p.refused_rate,
           grouped = p.grouped,
           openings = greatest(p.openings, CASE WHEN l.open_until > now() THEN l.openings END),
           breaker = CASE WHEN l.open_until > now() THEN l.breaker
                          WHEN p.openings > 0 THEN 'half_open' ELSE 'closed' END,
           paced_until = clock_timestamp() + p.paced_in * interval '1 second'
      FROM unnest(%(ids)s::bigint[], %(rates)s::float8[], %(refused)s::float8[], %(grouped)s::bool[],
                  %(openings)s::int[], %(paced)s::float8[])
           AS p(id, rate_now, refused_rate, grouped, openings, paced_in)
     WHERE l.id = p.id AND l.id = ANY({_FREE_ROWS}) AND l.holder = %(run)s"""

_STOP = """
    UPDATE engine_lane
       SET paused_at = now(), pause_reason = %(reason)s, last_error = %(detail)s
     WHERE id = ANY(ARRAY(SELECT id FROM engine_lane
             WHERE {which} AND paused_at IS NULL ORDER BY id FOR UPDATE))
    RETURNING id"""

_OPEN = """
    UPDATE engine_lane
       SET breaker = 'open', open_until = greatest(open_until, now() + %(seconds)s * interval '1 second'),
           openings = greatest(openings, %(openings)s), last_error = %(detail)s
     WHERE id = ANY(ARRAY(SELECT id FROM engine_lane WHERE {which} ORDER BY id FOR UPDATE))
    RETURNING id"""


def available(db: Cursor[Any], *, processor: str, run: int | None, lane_ids: Sequence[int]) -> list[int]:
    """Say which of these lanes could be taken now."""
    parameters = {"processor": processor, "run": run, "ids": list(lane_ids)}
    return [row[0] for row in db.execute(_FREE_LANES, parameters, prepare=True)]


def acquire(db: Cursor[Any], *, processor: str, run: int, lane_ids: Sequence[int], most: int) -> list[Leased]:
    """Take up to `most` of these lanes that nobody drains and nothing holds back."""
    parameters = {
        "processor": processor,
        "run": run,
        "lease": settings.LEASE_SECONDS,
        "ids": list(lane_ids),
        "most": most,
    }
    rows = db.execute(_ACQUIRE, parameters, prepare=True).fetchall()
    return [Leased(_row(row), *row[11:]) for row in rows]


def read(db: Cursor[Any], *, run: int, lane_ids: Sequence[int]) -> list[LaneRow]:
    """Read lanes that `run` holds as they are now. One that is missing is lost: stop at once."""
    return [_row(row) for row in db.execute(_READ, {"ids": list(lane_ids), "run": run}, prepare=True)]


def free_expired(db: Cursor[Any], *, processor: str, run: int | None = None) -> dict[int, int]:
    """Take lanes from holders that did not renew: {lane: the run that held it}.

    The lanes stay locked until the transaction ends, so that the caller can see to the rows left on
    them before anybody acquires them.
    """
    expired: dict[int, int] = dict(
        db.execute(_EXPIRED, {"processor": processor, "run": run}, prepare=True).fetchall()
    )
    if expired:
        db.execute(_FREE, {"ids": list(expired)})
    return expired


def renew(db: Cursor[Any], *, run: int, paces: Mapping[int, Pace]) -> set[int]:
    """Keep these lanes for another lease; returns those kept. One whose row somebody holds is passed over: it
    lives on what its lease has left. `read` says which of them are still ours."""
    parameters = {"run": run, "lease": settings.LEASE_SECONDS, **_columns(paces)}
    return {row[0] for row in db.execute(_RENEW, parameters, prepare=True)}


def release(db: Cursor[Any], *, run: int, paces: Mapping[int, Pace]) -> set[int]:
    """Let go of lanes; the next holder goes on at the pace of this one. Returns those that are still ours,
    since somebody holds their row just now."""
    paced = [pace.paced_in for pace in paces.values()]
    parameters = {"run": run, "paced": paced, **_columns(paces)}
    if db.execute(_RELEASE, parameters, prepare=True).rowcount == len(paces):
        return set()
    return {row[0] for row in db.execute(_HELD, {"run": run, "ids": list(paces)}, prepare=True)}


def stop_lanes(
    db: Cursor[Any], *, reason: str, detail: str, lane_id: int | None = None, token_id: int | None = None
) -> list[int]:
    """Pause a lane, or every lane on a token, until a person resumes it."""
    which, which_id = _which(lane_id, token_id)
    parameters = {"reason": reason, "detail": detail, "which": which_id}
    return [row[0] for row in db.execute(_STOP.format(which=which), parameters)]


def open_breaker(
    db: Cursor[Any],
    *,
    seconds: float,
    detail: str,
    openings: int = 0,
    lane_id: int | None = None,
    token_id: int | None = None,
) -> list[int]:
    """Keep a lane, or every lane on a token, shut for a while.

    `openings` counts how often a lane's own breaker opened in a row; 0 when the vendor asked for the rest.
    """
    which, which_id = _which(lane_id, token_id)
    parameters = {"seconds": seconds, "openings": openings, "detail": detail, "which": which_id}
    return [row[0] for row in db.execute(_OPEN.format(which=which), parameters)]


def _row(row: Sequence[Any]) -> LaneRow:
    units = tuple(sorted(row[9]))
    return LaneRow(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], row[8], units, row[10])


def _columns(paces: Mapping[int, Pace]) -> dict[str, list[Any]]:
    return {
        "ids": list(paces),
        "rates": [pace.rate_now for pace in paces.values()],
        "refused": [pace.refused_rate for pace in paces.values()],
        "grouped": [pace.grouped for pace in paces.values()],
        "openings": [pace.openings for pace in paces.values()],
    }


def _which(lane_id: int | None, token_id: int | None) -> tuple[str, int]:
    if (lane_id is None) == (token_id is None):
        raise ValueError("name a lane or a token")
    if lane_id is not None:
        return "id = %(which)s", lane_id
    assert token_id is not None
    return "token_id = %(which)s", token_id
