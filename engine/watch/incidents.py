"""Open and end incidents: one open row for each tenant, kind and scope, and not too many of a kind."""

from __future__ import annotations

from typing import Final, Literal

import structlog
from django.db import connection
from django.db.models import Q
from django.utils.timezone import now

from engine.models import Incident

log = structlog.stdlib.get_logger("turnout.incidents")

MOST_OPEN: Final = 25
"""Incidents of a kind that may be open for a tenant; those beyond are one more, with the scope `more`."""
MORE: Final = "more"

# The arbiter is the partial constraint incident_open_once, in which no tenant equals no tenant. An open
# incident that is opened again is refreshed; `xmax = 0` tells a new row from a refreshed one. Several
# processes at once may pass the bound by one each, which does no harm.
OPEN: Final = """
WITH others AS (
    SELECT count(*) FILTER (WHERE scope <> 'more') AS n,
           coalesce(bool_or(scope = %(scope)s), false) AS open_already
      FROM engine_incident
     WHERE tenant_id IS NOT DISTINCT FROM %(tenant_id)s AND kind = %(kind)s AND ended_at IS NULL
), incident AS (
    SELECT n < %(most)s OR open_already AS alone FROM others
)
INSERT INTO engine_incident (tenant_id, kind, scope, severity, summary, opened_at, seen_at)
SELECT %(tenant_id)s, %(kind)s, CASE WHEN alone THEN %(scope)s ELSE 'more' END, %(severity)s,
       CASE WHEN alone THEN %(summary)s ELSE %(more)s END, now(), now()
  FROM incident
ON CONFLICT (tenant_id, kind, scope) WHERE ended_at IS NULL
DO UPDATE SET seen_at = excluded.seen_at, summary = excluded.summary, severity = excluded.severity
RETURNING id, tenant_id, kind, scope, severity, summary, opened_at, seen_at, ended_at, told_open_at,
          told_ended_at, xmax = 0 AS is_new
"""

END_OVERFLOW: Final = """
UPDATE engine_incident AS over SET ended_at = now()
 WHERE over.scope = 'more' AND over.ended_at IS NULL
   AND (SELECT count(*) FROM engine_incident AS other
         WHERE other.kind = over.kind AND other.tenant_id IS NOT DISTINCT FROM over.tenant_id
           AND other.ended_at IS NULL AND other.scope <> 'more') < %(most)s
"""

Severity = Literal["warning", "critical"]


def open_incident(
    *, tenant_id: int | None, kind: str, scope: str, summary: str, severity: Severity = "warning"
) -> Incident:
    """Open an incident, or refresh the one that is open for the same tenant, kind and scope.

    Any number of processes may say the same thing at once: there is one row. Part of the caller's
    transaction; it is told later, by `tell_incidents`. A tenant that has 25 of the kind open already gets
    one with the scope `more` instead, which the minute ends when there is room again.
    """
    values = {
        "tenant_id": tenant_id,
        "kind": kind,
        "scope": scope[:120],
        "severity": severity,
        "summary": summary.replace("\x00", "")[:300],  # vendors' words may be in it
        "most": MOST_OPEN,
        "more": f"more than {MOST_OPEN} incidents of the kind {kind}: the others are not listed",
    }
    incident: Incident = Incident._base_manager.raw(OPEN, values)[0]
    if incident.is_new:  # type: ignore[attr-defined]
        log.warning("incident opened", incident=incident.pk, kind=kind, scope=scope, summary=summary)
    return incident


def end_incident(*, tenant_id: int | None, kind: str, scope: str) -> int:
    """End the incident that is open for this tenant, kind and scope; return how many there were, 0 or 1."""
    whose = Q(tenant__isnull=True) if tenant_id is None else Q(tenant_id=tenant_id)
    ended: int = Incident._base_manager.filter(whose, kind=kind, scope=scope, ended_at__isnull=True).update(
        ended_at=now()
    )
    if ended:
        log.info("incident ended", kind=kind, scope=scope)
    return ended


def end_overflow() -> int:
    """End the incidents that stand for what went beyond the bound, where there is room again."""
    with connection.cursor() as cursor:
        cursor.execute(END_OVERFLOW, {"most": MOST_OPEN})
        return int(cursor.rowcount)
