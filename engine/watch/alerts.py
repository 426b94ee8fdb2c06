"""Tell people what has opened and what has ended, by Apprise, once each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import structlog
from django.conf import settings
from django.db import connection
from django.db.models import Q
from django.utils.timezone import now

from engine.models import Incident
from tenants.scope import all_tenants

log = structlog.stdlib.get_logger("turnout.incidents")

TELLER: Final = 7_346_101  # the advisory lock of whoever is telling; the number only has to be ours
LISTED: Final = 20


def tell_incidents() -> int:
    """Tell ALERT_URLS what has opened and what has ended since the last time; return how many were told.

    Many at once are told as one list, so that a vendor's bad hour is not a hundred alarms. Only one
    process tells at a time. What no address took is told again next time, and so is what was told by
    a process that died before it could write that down: rather twice than never.
    """
    if connection.in_atomic_block:
        raise RuntimeError("tell_incidents calls out, and must not hold a transaction while it does")
    with all_tenants(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [TELLER])
        if not cursor.fetchone()[0]:
            return 0
        try:
            return _tell_opened() + _tell_ended()
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [TELLER])


def _tell_opened() -> int:
    # One that opened and ended since the last time is told once, in the past tense.
    rows = list(
        Incident._base_manager.filter(told_open_at__isnull=True).select_related("tenant").order_by("id")
    )
    if not _deliver("Incident", rows):
        return 0
    at = now()
    pks = [row.pk for row in rows]
    ended_before = [row.pk for row in rows if row.ended_at]
    Incident._base_manager.filter(pk__in=pks).update(told_open_at=at)
    Incident._base_manager.filter(pk__in=ended_before).update(told_ended_at=at)
    return len(rows)


def _tell_ended() -> int:
    rows = list(
        Incident._base_manager.filter(
            Q(ended_at__isnull=False), told_open_at__isnull=False, told_ended_at__isnull=True
        )
        .select_related("tenant")
        .order_by("id")
    )
    if not _deliver("Over", rows):
        return 0
    Incident._base_manager.filter(pk__in=[row.pk for row in rows]).update(told_ended_at=now())
    return len(rows)


def _deliver(what: str, incidents: Sequence[Incident]) -> bool:
    """Send one notification about all of them; True once at least one address took it, or none is set."""
    if not incidents:
        return False
    if not settings.ALERT_URLS:
        return True  # the log has said it, and the admin shows it
    import apprise

    one = len(incidents) == 1
    title = f"{what}: {incidents[0].summary}" if one else f"{what}: {len(incidents)} at once"
    lines = [_line(incident) for incident in incidents[:LISTED]]
    if len(incidents) > LISTED:
        lines.append(f"and {len(incidents) - LISTED} more")
    lines.append(f"{settings.PUBLIC_URL}/admin/engine/incident/")
    kind = apprise.NotifyType.SUCCESS if what == "Over" else apprise.NotifyType.WARNING
    if what != "Over" and any(incident.severity == Incident.Severity.CRITICAL for incident in incidents):
        kind = apprise.NotifyType.FAILURE
    taken = 0
    for position, url in enumerate(settings.ALERT_URLS, start=1):
        service = apprise.Apprise()
        service.add(url)
        if service.notify(title=title[:200], body="\n".join(lines), notify_type=kind):
            taken += 1
        else:
            log.error("alert not delivered", address=position, incidents=len(incidents))
    return taken > 0


def _line(incident: Incident) -> str:
    whose = incident.tenant.name if incident.tenant else "platform"
    until = f", until {_clock(incident.ended_at)}" if incident.ended_at else ""
    since = _clock(incident.opened_at)
    return f"{whose}: {incident.summary} ({incident.kind}, {incident.scope}, {since}{until})"


def _clock(at: datetime) -> str:
    return at.strftime("%d %b %H:%M UTC")
