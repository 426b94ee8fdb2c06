"""What vendors allow a tenant, and what is used of it: by its own lanes, and by the platform's for it."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from typing import Any, ClassVar

from django.db.models import Prefetch, QuerySet
from django.utils.timezone import now
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from engine.models import Allowance, Lane
from engine.store.spent import Spent, spent
from tenants.api.viewsets import TenantViewSet
from tenants.models import ProviderToken, Tenant
from tenants.scope import all_tenants, current_scope

WINDOWS: dict[str, str] = {
    Allowance.Window.HOUR: "hour",
    Allowance.Window.DAY: "day",
    Allowance.Window.CALENDAR_DAY: "day",
    Allowance.Window.CALENDAR_MONTH: "month",
}
"""The contract's words."""


class AllowanceShown(serializers.Serializer[Any]):
    unit = serializers.CharField(help_text="calls, recipients, usd_cents, units.")
    window = serializers.ChoiceField(["hour", "day", "month"])
    limit = serializers.IntegerField(allow_null=True)
    used = serializers.IntegerField()
    remaining = serializers.IntegerField(allow_null=True)
    resets_at = serializers.DateTimeField(allow_null=True)
    blocked_until = serializers.DateTimeField(allow_null=True)


class UsageSerializer(serializers.Serializer[Any]):
    """One lane: what the vendor allows it, what is used, and what holds it back.

    Of the platform's lanes that work for the tenant there is one row a queue and provider, `shared`, and in
    it the tenant's own share alone: no limit, token or name, and no id.
    """

    id = serializers.IntegerField(allow_null=True, help_text="Null: shared.")
    shared = serializers.BooleanField()
    queue = serializers.CharField()
    name = serializers.CharField(allow_blank=True)
    provider = serializers.CharField()
    token = serializers.IntegerField(allow_null=True)
    rate_per_second = serializers.FloatField(allow_null=True)
    rate_now = serializers.FloatField(allow_null=True)
    allowance = serializers.IntegerField(allow_null=True, help_text="Calls in the window; null: no limit.")
    window = serializers.ChoiceField(["hour", "day", "month"], allow_null=True)
    used = serializers.IntegerField()
    remaining = serializers.IntegerField(allow_null=True, help_text="Null: no limit.")
    resets_at = serializers.DateTimeField(
        allow_null=True, help_text="When some of it, or in a calendar window all, comes back."
    )
    allowances = AllowanceShown(many=True)
    breaker = serializers.ChoiceField(Lane.Breaker.choices)
    open_until = serializers.DateTimeField(allow_null=True)
    paused_at = serializers.DateTimeField(allow_null=True)
    pause_reason = serializers.CharField(allow_blank=True)
    last_error = serializers.CharField(allow_blank=True)


def usage_of(lanes: list[Lane]) -> list[dict[str, Any]]:
    """Tell of lanes that are the tenant's own; `token` and its `allowances` must have been fetched."""
    used = spent({allowance.pk for lane in lanes for allowance in lane.token.allowances.all()})
    rows = []
    for lane in lanes:
        allowances = [_shown(allowance, used[allowance.pk]) for allowance in lane.token.allowances.all()]
        calls = next((shown for shown in allowances if shown["unit"] == "calls"), None)
        rows.append(
            {
                "id": lane.pk,
                "shared": False,
                "name": lane.name,
                "token": lane.token_id,
                "rate_per_second": lane.rate_per_second,
                "rate_now": lane.rate_now,
                "pause_reason": lane.pause_reason,
                "last_error": lane.last_error,
                **_of_lane(lane),
                **_calls(calls),
                "allowances": allowances,
            }
        )
    return rows


def shared_usage(tenant: Tenant, queue: str | None = None) -> list[dict[str, Any]]:
    """Tell how much was spent for a tenant on the platform's lanes that serve it, by queue and provider."""
    with all_tenants():  # the platform's rows do not exist in the tenant's own scope
        tokens = ProviderToken.objects.of_platform().usable_by(tenant)
        lanes = _with_allowances(Lane.objects.filter(tenant=None, token__in=tokens).order_by("queue", "id"))
        by_use: dict[tuple[str, str], list[Lane]] = defaultdict(list)
        for lane in lanes.filter(queue=queue) if queue else lanes:
            by_use[lane.queue, lane.token.provider].append(lane)
        ids = {a.pk for group in by_use.values() for lane in group for a in lane.token.allowances.all()}
        used = spent(ids, tenant_id=tenant.pk)
    rows = []
    for group in by_use.values():
        shares: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        for allowance in (a for lane in group for a in lane.token.allowances.all()):
            shares[allowance.unit, WINDOWS[allowance.window]][allowance.pk] = used[allowance.pk].used
        allowances = [_share(*key, sum(share.values())) for key, share in shares.items()]
        calls = next((shown for shown in allowances if shown["unit"] == "calls"), None)
        # the freest of them: as long as one works, the queue does
        best = min(group, key=lambda lane: (lane.paused_at is not None, lane.breaker != Lane.Breaker.CLOSED))
        rows.append(
            {
                **dict.fromkeys(("id", "token", "rate_per_second", "rate_now")),
                **dict.fromkeys(("name", "pause_reason", "last_error"), ""),
                "shared": True,
                **_of_lane(best),
                **_calls(calls),
                "allowances": allowances,
            }
        )
    return rows


def _with_allowances(lanes: QuerySet[Lane]) -> QuerySet[Lane]:
    allowances = Prefetch("token__allowances", Allowance.objects.order_by("id"))
    return lanes.select_related("token").prefetch_related(allowances)


def _of_lane(lane: Lane) -> dict[str, Any]:
    return {
        "queue": lane.queue,
        "provider": lane.token.provider,
        "breaker": lane.breaker,
        "open_until": lane.open_until,
        "paused_at": lane.paused_at,
    }


def _calls(shown: dict[str, Any] | None) -> dict[str, Any]:
    """Repeat the allowance of calls beside the lane, where it has always stood."""
    if shown is None:
        return {"allowance": None, "window": None, "used": 0, "remaining": None, "resets_at": None}
    again = {name: shown[name] for name in ("window", "used", "remaining", "resets_at")}
    return {"allowance": shown["limit"], **again}


def _shown(allowance: Allowance, use: Spent) -> dict[str, Any]:
    return {
        "unit": allowance.unit,
        "window": WINDOWS[allowance.window],
        "limit": allowance.limit,
        "used": use.used,
        "remaining": max(0, allowance.limit - use.used),
        "resets_at": use.renews,
        "blocked_until": _still(allowance.blocked_until),
    }


def _share(unit: str, window: str, used: int) -> dict[str, Any]:
    nothing = dict.fromkeys(("limit", "remaining", "resets_at", "blocked_until"))
    return {"unit": unit, "window": window, "used": used, **nothing}


def _still(until: datetime | None) -> datetime | None:
    return until if until and until > now() else None


class UsageViewSet(TenantViewSet):
    """Every lane's allowance, use and reset; the shared ones stand at the end of the last page."""

    model = Lane
    serializer_class = UsageSerializer
    filters: ClassVar[dict[str, str]] = {"queue": "queue", "token": "token_id"}

    def get_queryset(self) -> QuerySet[Any]:
        return _with_allowances(super().get_queryset())

    @extend_schema(responses=UsageSerializer(many=True))
    def list(self, request: Request) -> Response:
        lanes = self.paginate_queryset(self.filter_queryset(self.get_queryset())) or []
        rows = usage_of(list(lanes))
        answer: Response = self.get_paginated_response(UsageSerializer(rows, many=True).data)
        if answer.data["next"] is None and "token" not in request.query_params:
            tenant = Tenant.objects.get(pk=current_scope())
            shared = shared_usage(tenant, request.query_params.get("queue"))
            answer.data["results"] = [*answer.data["results"], *UsageSerializer(shared, many=True).data]
        return answer

    @extend_schema(responses=UsageSerializer)
    def retrieve(self, request: Request, pk: str) -> Response:
        (row,) = usage_of([self.get_object()])
        return Response(UsageSerializer(row).data)
