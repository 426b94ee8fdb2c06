"""Set-based verbs over the engine's rows."""

from __future__ import annotations

from django.apps import apps
from django.db.models import F, OuterRef, Subquery

from tenants.scope import TenantQuerySet

NEAR = 0.8
"""The share of an allowance from which a lane is worth a look; an incident opens there too."""


class LaneQuerySet(TenantQuerySet):
    def with_calls(self) -> LaneQuerySet:
        """Annotate what the token may still call: `calls_limit` (None: no limit), `calls_used`,
        `calls_window`, `calls_reset_at`."""
        left = apps.get_model("engine", "AllowanceLeft").objects
        mine = left.filter(token_id=OuterRef("token_id"), unit="calls").order_by("id")
        lanes: LaneQuerySet = self.annotate(
            calls_limit=Subquery(mine.values("limit")[:1]),
            calls_used=Subquery(mine.annotate(used=F("spent") + F("held")).values("used")[:1]),
            calls_window=Subquery(mine.values("window")[:1]),
            calls_reset_at=Subquery(mine.values("resets_at")[:1]),
        )
        return lanes
