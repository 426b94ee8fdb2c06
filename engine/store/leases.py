"""Who drains a lane, until when, and what the vendor still allows it.

A lease is taken and kept by conditional updates of the lane's own row, with PostgreSQL's clock. `fence`
grows at each take-over. A holder that cannot renew stops on its own clock a quarter of the lease early.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from psycopg import Cursor


@dataclass(slots=True, frozen=True)
class Leased:
    """A lane just taken. Its first send may leave in `paced_in` seconds."""

    id: int
    tenant_id: int
    token_id: int
    name: str
    rate: float | None
    rate_now: float | None
    max_in_flight: int | None
    allowance: int | None
    fence: int
    paced_in: float


@dataclass(slots=True, frozen=True)
class Kept:
    """A lane still held after a renewal, and what changed in it meanwhile."""

    id: int
    rate: float | None
    stopped: bool


_AVAILABLE = """
    holder IS NULL AND paused_at IS NULL
    AND (open_until IS NULL OR open_until <= now())
    AND (allowance IS NULL OR used < allowance OR window_ends_at IS NULL OR window_ends_at <= now())"""

_ACQUIRE = f"""
    UPDATE engine_lane AS l
       SET holder = %(run)s, fence = l.fence + 1, leased_until = now() + %(lease)s * interval '1 second',
           breaker = 'closed', open_until = NULL
      FROM (SELECT id FROM engine_lane
             WHERE id = ANY(%(ids)s::bigint[]) AND {_AVAILABLE}
             ORDER BY id LIMIT %(most)s FOR UPDATE SKIP LOCKED) AS free
     WHERE l.id = free.id
    RETURNING l.id, l.tenant_id, l.token_id, l.name, l.rate_per_second, l.rate_now, l.max_in_flight,
              l.allowance, l.fence, greatest(0, extract(epoch FROM l.paced_until - now()))::float8"""

_FREE_LANES = f"SELECT id FROM engine_lane WHERE id = ANY(%(ids)s::bigint[]) AND {_AVAILABLE}"

_EXPIRED = """
    SELECT id, holder FROM engine_lane
     WHERE queue = %(queue)s AND holder IS NOT NULL AND leased_until <= now()
     ORDER BY id FOR UPDATE SKIP LOCKED"""

_FREE = """
    UPDATE engine_lane SET holder = NULL, leased_until = NULL, fence = fence + 1
     WHERE id = ANY(%(ids)s::bigint[])"""

_RENEW = """
    UPDATE engine_lane AS l
       SET leased_until = now() + %(lease)s * interval '1 second', rate_now = r.rate_now
      FROM unnest(%(ids)s::bigint[], %(rates)s::float8[]) AS r(id, rate_now)
     WHERE l.id = r.id AND l.holder = %(run)s
    RETURNING l.id, l.rate_per_second, l.paused_at IS NOT NULL OR coalesce(l.open_until > now(), false)"""

_RELEASE = """
    UPDATE engine_lane AS l
       SET holder = NULL, leased_until = NULL, rate_now = r.rate_now, used = greatest(0, l.used - r.unused),
           paced_until = clock_timestamp() + r.paced_in * interval '1 second'
      FROM unnest(%(ids)s::bigint[], %(rates)s::float8[], %(unused)s::int[], %(paced)s::float8[])
           AS r(id, rate_now, unused, paced_in)
     WHERE l.id = r.id AND l.holder = %(run)s"""

_RESERVE = """
    WITH lane AS (
        SELECT l.id, r.n, l.allowance,
               CASE WHEN l.window_ends_at > now() THEN l.used ELSE 0 END AS used,
               CASE WHEN l.window_ends_at > now() THEN l.window_ends_at
                    ELSE date_trunc(l.window, now()) + ('1 ' || l.window)::interval END AS ends_at
          FROM unnest(%(ids)s::bigint[], %(counts)s::int[]) AS r(id, n)
          JOIN engine_lane AS l ON l.id = r.id AND l.holder = %(run)s
         WHERE l.allowance IS NOT NULL ORDER BY l.id FOR UPDATE OF l
    )
    UPDATE engine_lane AS l
       SET used = lane.used + greatest(0, least(lane.n, lane.allowance - lane.used)),
           window_ends_at = lane.ends_at
      FROM lane WHERE l.id = lane.id
    RETURNING l.id, l.used - lane.used"""

_STOP = """
    UPDATE engine_lane
       SET paused_at = now(), pause_reason = %(reason)s, last_error = %(detail)s
     WHERE id = ANY(ARRAY(SELECT id FROM engine_lane
             WHERE {which} AND paused_at IS NULL ORDER BY id FOR UPDATE))
    RETURNING id"""

_OPEN = """
    UPDATE engine_lane
       SET breaker = 'open', open_until = greatest(open_until, now() + %(seconds)s * interval '1 second'),
           last_error = %(detail)s
     WHERE id = ANY(ARRAY(SELECT id FROM engine_lane WHERE {which} ORDER BY id FOR UPDATE))
    RETURNING id"""


def available(cursor: Cursor[Any], *, lane_ids: Sequence[int]) -> list[int]:
    """Say which of these lanes could be taken now."""
    return [row[0] for row in cursor.execute(_FREE_LANES, {"ids": list(lane_ids)}, prepare=True)]


def acquire(cursor: Cursor[Any], *, run: int, lane_ids: Sequence[int], most: int) -> list[Leased]:
    """Take up to `most` of these lanes that nobody drains and nothing holds back."""
    parameters = {"run": run, "lease": settings.LEASE_SECONDS, "ids": list(lane_ids), "most": most}
    return [Leased(*row) for row in cursor.execute(_ACQUIRE, parameters, prepare=True)]


def free_expired(cursor: Cursor[Any], *, queue: str) -> dict[int, int]:
    """Take lanes from holders that did not renew: {lane: the run that died holding it}.

    The lanes stay locked until the transaction ends, so that the caller can see to the rows left on
    them before anybody acquires them.
    """
    expired: dict[int, int] = dict(cursor.execute(_EXPIRED, {"queue": queue}, prepare=True).fetchall())
    if expired:
        cursor.execute(_FREE, {"ids": list(expired)})
    return expired


def renew(cursor: Cursor[Any], *, run: int, rates: Mapping[int, float | None]) -> list[Kept]:
    """Keep these lanes for another lease. A lane missing from the answer is lost: stop at once."""
    parameters = {
        "run": run,
        "lease": settings.LEASE_SECONDS,
        "ids": list(rates),
        "rates": list(rates.values()),
    }
    return [Kept(*row) for row in cursor.execute(_RENEW, parameters, prepare=True)]


def release(cursor: Cursor[Any], *, run: int, lanes: Sequence[tuple[int, float | None, int, float]]) -> None:
    """Let go of lanes, each as (id, rate now, calls reserved and not made, seconds until its next slot)."""
    ids, rates, unused, paced = (list(part) for part in zip(*lanes, strict=True))
    cursor.execute(
        _RELEASE, {"run": run, "ids": ids, "rates": rates, "unused": unused, "paced": paced}, prepare=True
    )


def reserve(cursor: Cursor[Any], *, run: int, calls: Mapping[int, int]) -> dict[int, int]:
    """Take calls from the lanes' allowances: {lane: calls granted}.

    Exact under any number of takers, since the row is locked while it is counted. A window that is
    over starts again at nought, aligned to the hour, day or month as the vendor's is.
    """
    parameters = {"run": run, "ids": list(calls), "counts": list(calls.values())}
    return dict(cursor.execute(_RESERVE, parameters, prepare=True).fetchall())


def stop_lanes(
    cursor: Cursor[Any], *, reason: str, detail: str, lane_id: int | None = None, token_id: int | None = None
) -> list[int]:
    """Pause a lane, or every lane on a token, until a person resumes it."""
    which, which_id = _which(lane_id, token_id)
    parameters = {"reason": reason, "detail": detail, "which": which_id}
    return [row[0] for row in cursor.execute(_STOP.format(which=which), parameters)]


def open_breaker(
    cursor: Cursor[Any],
    *,
    seconds: float,
    detail: str,
    lane_id: int | None = None,
    token_id: int | None = None,
) -> list[int]:
    """Keep a lane, or every lane on a token, shut for a while."""
    which, which_id = _which(lane_id, token_id)
    parameters = {"seconds": seconds, "detail": detail, "which": which_id}
    return [row[0] for row in cursor.execute(_OPEN.format(which=which), parameters)]


def _which(lane_id: int | None, token_id: int | None) -> tuple[str, int]:
    if (lane_id is None) == (token_id is None):
        raise ValueError("name a lane or a token")
    if lane_id is not None:
        return "id = %(which)s", lane_id
    assert token_id is not None
    return "token_id = %(which)s", token_id
