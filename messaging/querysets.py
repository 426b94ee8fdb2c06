"""Set-based verbs over messaging's rows."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from django.core.exceptions import EmptyResultSet
from django.db.models import BooleanField
from django.db.models.expressions import RawSQL

from tenants.scope import TenantQuerySet

RUNNABLE: Final = """{flow} IN (
    SELECT s.id FROM messaging_broadcaststep AS s
      JOIN messaging_broadcast AS b ON b.id = s.broadcast_id AND b.state = 'running'
      JOIN campaigns_campaign AS c ON c.id = b.campaign_id AND c.state NOT IN ('paused', 'completed')
      JOIN tenants_tenant AS o ON o.id = b.tenant_id AND o.state = 'active'
      JOIN messaging_messagetemplate AS t ON t.id = s.template_id AND t.state = 'approved'
     WHERE s.state = 'running')"""
"""Which steps may be claimed from now: SQL over the step's id, asked at each claim and before each call."""


class BroadcastQuerySet(TenantQuerySet):
    def due(self, now: datetime) -> BroadcastQuerySet:
        """Scheduled and their time has come."""
        return self.filter(state="scheduled", scheduled_at__lte=now)


class MessageQuerySet(TenantQuerySet):
    def open(self) -> MessageQuerySet:
        """Not yet answered for: queued, in a runner's hands, or perhaps out."""
        return self.filter(state__in=["queued", "claimed", "sending"])

    def locked_by_id(self) -> MessageQuerySet:
        """Lock these rows in the order of their ids, as everybody does, and stand for exactly them.

        Needs a transaction. An UPDATE by itself locks in whatever order the planner reads, and two that meet
        from both ends wait for each other.
        """
        ordered = self.order_by("id").select_for_update(no_key=True).values("pk")
        try:
            sql, params = ordered.query.sql_with_params()
        except EmptyResultSet:
            return self.none()
        table = self.model._meta.db_table
        chosen = f'"{table}"."id" = ANY(ARRAY({sql}))'
        mine = RawSQL(chosen, params, output_field=BooleanField())  # noqa: S611 - as Django compiled it
        return MessageQuerySet(self.model, using=self.db).filter(mine)

    def in_doubt(self) -> MessageQuerySet:
        return self.filter(state="in_doubt")
