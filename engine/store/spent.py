"""What was spent of allowances, as people read it: all of it, or one tenant's share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

SPENT = """
SELECT a.id, coalesce(u.spent, 0) + coalesce(h.held, 0),
       engine_allowance_resets(a."window", a.timezone, u.oldest)
  FROM engine_allowance a
  LEFT JOIN LATERAL (
       SELECT sum(s.spent)::bigint AS spent, min(s.slot) AS oldest
         FROM engine_allowanceuse s
        WHERE s.allowance_id = a.id AND s.spent > 0
          AND (%(tenant)s::bigint IS NULL OR s.tenant_id = %(tenant)s)
          AND s.slot >= engine_allowance_opens(a."window", a.timezone)
       ) u ON true
  LEFT JOIN LATERAL (
       SELECT sum(held)::bigint AS held FROM engine_allowancehold
        WHERE allowance_id = a.id AND %(tenant)s::bigint IS NULL
       ) h ON true
 WHERE a.id = ANY(%(ids)s)
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """How much is gone, reserved parts included, and when some of it comes back."""

    used: int
    renews: datetime | None


def spent(allowance_ids: Collection[int], *, tenant_id: int | None = None) -> dict[int, Spent]:
    """Read what was spent in each allowance's window now; with a tenant, only on that tenant's behalf.

    What a runner has reserved counts as spent, but not in a tenant's share: it is nobody's yet.
    """
    with connection.cursor() as cursor:
        cursor.execute(SPENT, {"ids": list(allowance_ids), "tenant": tenant_id})
        return {row[0]: Spent(row[1], row[2]) for row in cursor.fetchall()}
