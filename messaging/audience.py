"""Who gets a broadcast, who does not and why, and which step each one is in: all of it in SQL.

Preflight and launch read the same relation, so what an operator is shown is what is frozen. One pass over
the audience, whatever its size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Final

from django.core.exceptions import EmptyResultSet
from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper

from campaigns.models import Contact, Segment
from messaging.models import Broadcast, BroadcastStep, MessageTemplate, Suppression
from messaging.schemas import FIELDS

Sql = tuple[str, list[Any]]

NO_PHONE, SUPPRESSED, OPTED_OUT = "no_phone", "suppressed", "opted_out_of_marketing"
MISSING_VARIABLES, DUPLICATE_PHONE = "missing_variables", "duplicate_phone"
REASONS: Final = (NO_PHONE, SUPPRESSED, OPTED_OUT, MISSING_VARIABLES, DUPLICATE_PHONE)
"""Why a contact is left out, the first that holds."""


@contextmanager
def planned_for_many() -> Iterator[CursorWrapper]:
    """Give a cursor whose statements join by hash and sort in memory, until the end of the block.

    Right after a tenant's first import the planner believes that it has no contacts, and would loop over
    its suppressions for each of them: 75 s for 50,000. Needs a transaction.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('work_mem')")
        before = cursor.fetchone()[0]
        cursor.execute("SET LOCAL enable_nestloop = off; SET LOCAL work_mem = '64MB'")
        yield cursor
        cursor.execute(
            "SELECT set_config('enable_nestloop', 'on', true), set_config('work_mem', %s, true)", [before]
        )


def ranked_sql(broadcast: Broadcast, steps: Sequence[BroadcastStep]) -> Sql:
    """Write the CTEs that end in `ranked(id, phone, reason)`; a NULL reason means that the contact gets it.

    A contact without one of the variables of any of the steps is left out of all of them, and whoever has
    opted out of marketing is left out when any step is marketing: so the steps' sizes stay exact. Of
    several contacts with one phone the lowest id gets it.
    """
    where, where_params = _audience(broadcast)
    missing, missing_params = _missing(steps)
    marketing = any(step.template.category == MessageTemplate.Category.MARKETING for step in steps)
    sql = f"""
        silenced AS (
            SELECT phone, bool_or(channel <> %s) AS wholly
              FROM messaging_suppression
             WHERE tenant_id = %s AND channel = ANY(%s)
             GROUP BY phone
        ), judged AS (
            SELECT c.id, c.phone,
                   CASE WHEN c.phone = '' THEN '{NO_PHONE}'
                        WHEN s.wholly THEN '{SUPPRESSED}'
                        WHEN %s AND s.phone IS NOT NULL THEN '{OPTED_OUT}'
                        WHEN {missing} THEN '{MISSING_VARIABLES}'
                   END AS reason
              FROM campaigns_contact c
              LEFT JOIN silenced s ON s.phone = c.phone
             WHERE c.tenant_id = %s AND {where}
        ), ranked AS (
            SELECT id, phone, coalesce(reason, CASE
                       WHEN row_number() OVER (PARTITION BY phone, reason IS NULL ORDER BY id) > 1
                       THEN '{DUPLICATE_PHONE}' END) AS reason
              FROM judged
        )"""
    channel = Suppression.Channel
    params = [
        channel.WHATSAPP_MARKETING,
        broadcast.tenant_id,
        [channel.WHATSAPP, channel.WHATSAPP_MARKETING, channel.ALL],
        marketing,
        *missing_params,
        broadcast.tenant_id,
        *where_params,
    ]
    return sql, params


def placed_sql(broadcast: Broadcast, steps: Sequence[BroadcastStep]) -> Sql:
    """Write the CTE `placed(id, phone, step_id)`: who of `ranked` is in which step.

    Contacts are ranked by a hash of broadcast and contact, and cut where the shares add up: the same
    people in the same steps however often it is asked, and every step exact to one.
    """
    if len(steps) == 1:
        return "placed AS (SELECT id, phone, %s::bigint AS step_id FROM ranked WHERE reason IS NULL)", [
            steps[0].pk
        ]
    cases, params, reached = "", [], 0
    for step in steps[:-1]:
        reached += step.share
        cases += "WHEN place < n * %s / 100 THEN %s::bigint "
        params += [reached, step.pk]
    sql = f"""numbered AS (
            SELECT id, phone, count(*) OVER () AS n,
                   row_number() OVER (ORDER BY md5(%s || ':' || id)::uuid) - 1 AS place
              FROM ranked WHERE reason IS NULL
        ), placed AS (
            SELECT id, phone, CASE {cases} ELSE %s::bigint END AS step_id FROM numbered
        )"""
    return sql, [str(broadcast.pk), *params, steps[-1].pk]


def sizes(total: int, steps: Sequence[BroadcastStep]) -> list[int]:
    """Say how many of `total` each step gets, as `placed_sql` cuts them."""
    edges, reached = [0], 0
    for step in steps[:-1]:
        reached += step.share
        edges.append(total * reached // 100)
    if steps:
        edges.append(total)
    return [after - before for before, after in pairwise(edges)]


def parameters_sql(steps: Sequence[BroadcastStep]) -> Sql:
    """Write the expression that fills in the template of step `p.step_id` for contact `c`."""
    cases, params = "", []
    for step in steps:
        values = [_filled(variable) for variable in step.template.variables]
        cases += f"WHEN %s THEN jsonb_build_array({', '.join(sql for sql, _ in values)}) "
        params += [step.pk, *(value for _, some in values for value in some)]
    return f"CASE p.step_id {cases} END", params


def source_of(variable: Any) -> tuple[str, str]:
    """Read one entry of a template's variables: where its value comes from, and its default ("": none)."""
    if isinstance(variable, dict):
        return str(variable["from"]), str(variable.get("default") or "")
    return str(variable), ""


def _value(source: str) -> Sql:
    """Write a variable's value, NULL when there is none.

    Meta refuses parameters with new lines, tabs or more than four spaces in a row, so white space is
    folded.
    """
    column, params = (f"c.{source}", []) if source in FIELDS else ("c.attributes ->> %s", [_key(source)])
    return f"nullif(btrim(regexp_replace({column}, '\\s+', ' ', 'g')), '')", params


def _key(source: str) -> str:
    return source.removeprefix("attributes.")


def _filled(variable: Any) -> Sql:
    source, default = source_of(variable)
    sql, params = _value(source)
    return f"coalesce({sql}, %s)", [*params, default]


def _missing(steps: Sequence[BroadcastStep]) -> Sql:
    required = {
        source
        for step in steps
        for source, default in map(source_of, step.template.variables)
        if not default and source != "phone"
    }
    tests = [_value(source) for source in sorted(required)]
    if not tests:
        return "false", []
    return " OR ".join(f"{sql} IS NULL" for sql, _ in tests), [value for _, some in tests for value in some]


def _audience(broadcast: Broadcast) -> Sql:
    """Write the condition on `c` that chooses the audience."""
    audience = broadcast.audience
    if audience.get("all") is True:
        return "true", []
    if "contacts" in audience:
        return "c.external_id = ANY(%s)", [list(audience["contacts"])]
    segment = Segment.objects.filter(pk=audience["segment"], tenant_id=broadcast.tenant_id).first()
    if segment is None:
        return "false", []
    try:
        chosen = Contact.objects.filter(tenant_id=broadcast.tenant_id).in_segment(segment)
        sql, params = chosen.order_by().values("pk").query.sql_with_params()
    except EmptyResultSet:
        return "false", []
    return f"c.id IN ({sql})", list(params)
