"""What was spent of allowances, as people read it: all of it, or one tenant's share."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

# A slot counts as long as any moment of it lies in the window: a minute of an hour, half an hour of a day.
# The last column: when the oldest slot leaves a sliding window, or the vendor's next day or month begins.
SPENT = """
SELECT a.id, coalesce(u.spent, 0) + coalesce(h.held, 0),
       CASE a."window"
            WHEN 'hour' THEN u.oldest + interval '61 minutes'
            WHEN 'day' THEN u.oldest + interval '24 hours 30 minutes'
            WHEN 'calendar_day' THEN
                 (date_trunc('day', now() AT TIME ZONE a.timezone) + interval '1 day')
                 AT TIME ZONE a.timezone
            ELSE (date_trunc('month', now() AT TIME ZONE a.timezone) + interval '1 month')
                 AT TIME ZONE a.timezone END
  FROM engine_allowance a
  LEFT JOIN LATERAL (
       SELECT sum(s.spent)::bigint AS spent, min(s.slot) AS oldest
         FROM engine_allowanceuse s
        WHERE s.allowance_id = a.id AND s.spent > 0
          AND (%(tenant)s::bigint IS NULL OR s.tenant_id = %(tenant)s)
          AND CASE a."window"
              WHEN 'hour' THEN s.slot > now() - interval '61 minutes'
              WHEN 'day' THEN s.slot > now() - interval '24 hours 30 minutes'
              WHEN 'calendar_day' THEN
                   s.slot >= date_trunc('day', now() AT TIME ZONE a.timezone) AT TIME ZONE a.timezone
              ELSE s.slot >= date_trunc('month', now() AT TIME ZONE a.timezone) AT TIME ZONE a.timezone END
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
