"""What a token may still spend, shared by all its lanes, exact under any number of takers.

Three figures: the limit, what was *spent* in the window, what runners *hold* (reserved, not spent yet). The
rest may be reserved. A call counts as spent from its answer, which is after its arrival, so in any window as
the vendor counts it nothing is missing:

    the call of a window that was reserved last found every other one of that window either held or spent at
    or after its arrival, and so less than a window ago.

Spending is kept in slots (a minute of an hour, half an hour of a day), and a slot counts until its last
moment has left the window.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from psycopg import Cursor

from providers.base import Usage

Held = tuple[int, str]
"""(lane, unit): whose hold of what."""

MOST = 2**31 - 1
"""What the columns hold. A tenant's limit may be this, and a vendor may say ten times as much."""
_ADD = f"spent = least(u.spent::bigint + excluded.spent, {MOST})::int"

_LOCK = """
    SELECT a.id, l.id, a.unit
      FROM unnest(%(lanes)s::bigint[], %(units)s::text[]) AS want(lane, unit)
      JOIN engine_lane AS l ON l.id = want.lane AND l.holder = %(run)s
      JOIN engine_allowance AS a ON a.token_id = l.token_id AND a.unit = want.unit
     ORDER BY a.id FOR UPDATE OF a"""

_LEFT = """SELECT id, left_over FROM engine_allowanceleft WHERE id = ANY(%(ids)s::bigint[])"""

_HOLD = """
    INSERT INTO engine_allowancehold AS h (allowance_id, lane_id, held)
    SELECT * FROM unnest(%(allowances)s::bigint[], %(lanes)s::bigint[], %(held)s::int[])
    ON CONFLICT (allowance_id, lane_id) DO UPDATE SET held = excluded.held"""

_SPEND = f"""
    INSERT INTO engine_allowanceuse AS u (allowance_id, slot, tenant_id, spent)
    SELECT a.id, engine_allowance_slot(a."window", a.timezone), s.tenant_id, least(sum(s.spent), {MOST})::int
      FROM unnest(%(lanes)s::bigint[], %(units)s::text[], %(tenants)s::bigint[], %(spent)s::int[])
           AS s(lane, unit, tenant_id, spent)
      JOIN engine_lane AS l ON l.id = s.lane
      JOIN engine_allowance AS a ON a.token_id = l.token_id AND a.unit = s.unit
     GROUP BY 1, 2, 3 ORDER BY 1, 3
    ON CONFLICT (allowance_id, slot, tenant_id) DO UPDATE SET {_ADD}"""

_SET_HOLDS = """
    UPDATE engine_allowancehold AS h SET held = s.held
      FROM unnest(%(lanes)s::bigint[], %(units)s::text[], %(held)s::int[]) AS s(lane, unit, held),
           engine_allowance AS a
     WHERE h.lane_id = s.lane AND a.id = h.allowance_id AND a.unit = s.unit"""

# What a dead runner held may have been spent: nobody knows, so it counts.
_FORFEIT = f"""
    WITH gone AS (
        DELETE FROM engine_allowancehold WHERE lane_id = ANY(%(lanes)s::bigint[]) RETURNING allowance_id, held
    )
    INSERT INTO engine_allowanceuse AS u (allowance_id, slot, tenant_id, spent)
    SELECT a.id, engine_allowance_slot(a."window", a.timezone), 0, least(sum(gone.held), {MOST})::int
      FROM gone JOIN engine_allowance AS a ON a.id = gone.allowance_id WHERE gone.held > 0 GROUP BY 1, 2
    ON CONFLICT (allowance_id, slot, tenant_id) DO UPDATE SET {_ADD}"""

_GIVE_BACK = "DELETE FROM engine_allowancehold WHERE lane_id = ANY(%(lanes)s::bigint[])"

# The vendor's word counts where it is more than ours: somebody else calls with this token as well.
_CORRECT = f"""
    WITH said AS (
        SELECT a.id, a."window", a.timezone, v.used, v.wanted_limit, v.blocked,
               coalesce(v.used, least(ceil(v.share * a."limit"), {MOST})::int)
                 - (a."limit" - l.left_over) AS missing
          FROM unnest(%(tokens)s::bigint[], %(units)s::text[], %(used)s::int[], %(share)s::float8[],
                      %(limits)s::int[], %(blocked)s::float8[])
               AS v(token_id, unit, used, share, wanted_limit, blocked)
          JOIN engine_allowance AS a ON a.token_id = v.token_id AND a.unit = v.unit
          JOIN engine_allowanceleft AS l ON l.id = a.id
         WHERE l.left_over > 0 OR v.blocked IS NOT NULL OR v.wanted_limit IS NOT NULL
    ), told AS (
        UPDATE engine_allowance AS a
           SET said_used = coalesce(said.used, a.said_used), said_at = now(),
               "limit" = coalesce(said.wanted_limit, a."limit"),
               blocked_until = greatest(a.blocked_until, now() + said.blocked * interval '1 second')
          FROM said WHERE a.id = said.id
    )
    INSERT INTO engine_allowanceuse AS u (allowance_id, slot, tenant_id, spent)
    SELECT id, engine_allowance_slot("window", timezone), 0, missing FROM said WHERE missing > 0
    ON CONFLICT (allowance_id, slot, tenant_id) DO UPDATE SET {_ADD}"""


@dataclass(slots=True, frozen=True)
class Spent:
    """What one lane's calls cost on behalf of one tenant."""

    lane_id: int
    unit: str
    tenant_id: int
    spent: int


def reserve(
    db: Cursor[Any], *, run: int, wanted: Mapping[Held, int], held: Mapping[Held, int]
) -> dict[Held, int | None]:
    """Reserve up to `wanted` more than `held`; returns what was granted, None where nothing limits it.

    Only for lanes that `run` holds. What is written are whole holds, so doing it twice after a lost
    acknowledgement reserves nothing twice.
    """
    lanes, units = [key[0] for key in wanted], [key[1] for key in wanted]
    limits: dict[Held, list[int]] = defaultdict(list)
    for allowance, lane, unit in db.execute(
        _LOCK, {"run": run, "lanes": lanes, "units": units}, prepare=True
    ):
        limits[lane, unit].append(allowance)
    granted: dict[Held, int | None] = dict.fromkeys(wanted)
    if not limits:
        return granted
    ids = sorted({allowance for found in limits.values() for allowance in found})
    left: dict[int, int] = dict(db.execute(_LEFT, {"ids": ids}, prepare=True).fetchall())
    rows: list[tuple[int, int, int]] = []
    for key, allowances in limits.items():
        grant = max(0, min(wanted[key], *(left[allowance] for allowance in allowances)))
        granted[key] = grant
        for allowance in allowances:
            left[allowance] -= grant
            rows.append((allowance, key[0], held.get(key, 0) + grant))
    columns = [list(column) for column in zip(*sorted(rows), strict=True)]
    db.execute(_HOLD, dict(zip(("allowances", "lanes", "held"), columns, strict=True)), prepare=True)
    return granted


def spend(db: Cursor[Any], *, spent: Collection[Spent], held: Mapping[Held, int]) -> None:
    """Write what calls have cost, and what their lanes hold from now on."""
    db.execute(
        _SPEND,
        {
            "lanes": [one.lane_id for one in spent],
            "units": [one.unit for one in spent],
            "tenants": [one.tenant_id for one in spent],
            "spent": [one.spent for one in spent],
        },
        prepare=True,
    )
    db.execute(
        _SET_HOLDS,
        {
            "lanes": [key[0] for key in held],
            "units": [key[1] for key in held],
            "held": [max(0, amount) for amount in held.values()],
        },
        prepare=True,
    )


def give_back(db: Cursor[Any], *, lanes: Sequence[int]) -> None:
    """Give back all that these lanes hold: nothing of it is under way."""
    db.execute(_GIVE_BACK, {"lanes": list(lanes)}, prepare=True)


def forfeit(db: Cursor[Any], *, lanes: Sequence[int]) -> None:
    """Count what dead runners held on these lanes as spent."""
    db.execute(_FORFEIT, {"lanes": list(lanes)}, prepare=True)


def correct(db: Cursor[Any], usages: Mapping[tuple[int, str], Usage]) -> None:
    """Write the vendors' own words: {(token, unit): usage}. What they count more than we do is added."""
    if not usages:
        return
    words = list(usages.values())
    db.execute(
        _CORRECT,
        {
            "tokens": [token for token, _ in usages],
            "units": [unit for _, unit in usages],
            "used": [_storable(word.used) for word in words],
            "share": [min(word.share, 10.0) if word.share is not None else None for word in words],
            "limits": [_storable(word.limit) for word in words],
            "blocked": [
                ceil(word.regain_after.total_seconds()) if word.regain_after else None for word in words
            ],
        },
    )


def _storable(figure: int | None) -> int | None:
    return None if figure is None else min(max(figure, 0), MOST)
