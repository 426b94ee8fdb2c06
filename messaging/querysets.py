"""Set-based verbs over messaging's rows."""

from __future__ import annotations

from datetime import datetime

from tenants.scope import TenantQuerySet


class BroadcastQuerySet(TenantQuerySet):
    def due(self, now: datetime) -> BroadcastQuerySet:
        """Scheduled and their time has come."""
        return self.filter(state="scheduled", scheduled_at__lte=now)


class MessageQuerySet(TenantQuerySet):
    def open(self) -> MessageQuerySet:
        """Not yet answered for: queued, in a runner's hands, or perhaps out."""
        return self.filter(state__in=["queued", "claimed", "sending"])

    def in_doubt(self) -> MessageQuerySet:
        return self.filter(state="in_doubt")
