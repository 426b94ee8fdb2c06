"""The queues' page: lanes, what they may do, what holds them back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin
from django.db import models
from django.db.models import F, Q
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.timesince import timesince, timeuntil
from django.utils.timezone import now
from unfold.contrib.filters.admin import DropdownFilter
from unfold.decorators import display

from engine import actions
from engine.admin.ledgers import QueueFilter
from engine.models import AllowanceLeft, Lane
from engine.querysets import NEAR
from tenants.admin_actions import act_on_each, object_action
from tenants.admin_base import TenantModelAdmin

DEPTHS: dict[str, Callable[[Iterable[int]], dict[int, int]]] = {}
"""By queue: counts the open rows of some lanes, cheaply. Each queue's app adds its own."""


class LaneStateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("paused", "Paused"),
            ("open", "Vendor refuses"),
            ("half_open", "Trying one call"),
            ("near", "Near its allowance"),
            ("free", "Free"),
        ]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        paused, refused = Q(paused_at__isnull=False), Q(breaker=Lane.Breaker.OPEN)
        tokens = AllowanceLeft.objects.filter(unit="calls", left_over__lte=(1 - NEAR) * F("limit"))
        near = Q(token_id__in=tokens.values("token_id"))
        match self.value():
            case "paused":
                return queryset.filter(paused)
            case "open":
                return queryset.filter(refused)
            case "half_open":
                return queryset.filter(breaker=Lane.Breaker.HALF_OPEN)
            case "near":
                return queryset.filter(near)
            case "free":
                return queryset.exclude(paused).exclude(refused)
        return queryset


@admin.register(Lane)
class LaneAdmin(TenantModelAdmin):
    """The queues' page: one row for each thing that a vendor limits."""

    list_display = ("lane", "state", "rate", "allowance_used", "waiting", "lease", "why")
    list_filter = (LaneStateFilter, QueueFilter)
    list_select_related = ("token",)
    search_fields = ("name",)
    search_help_text = "The lane's name, e.g. a phone number id."
    ordering = ("queue", "id")
    actions = ("pause_lanes", "resume_lanes")
    fieldsets = (
        (None, {"fields": ("queue", "name", "token", "state", "why")}),
        (
            "What the vendor allows",
            {
                "fields": (
                    "rate_per_second",
                    "rate_now",
                    "refused_rate",
                    "max_in_flight",
                    "allowance_used",
                )
            },
        ),
        ("Lease", {"fields": ("lease", "holder", "leased_until", "last_error")}),
    )
    readonly_fields = (
        *("queue", "name", "token", "state", "why"),
        *("rate_per_second", "rate_now", "refused_rate", "allowance_used"),  # a sender and a token set them
        *("lease", "holder", "leased_until", "last_error"),
    )

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # a lane is made with what uses it: a sender, a token

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        changelist = super().get_changelist_instance(request)
        lanes = list(changelist.result_list)
        for queue in {lane.queue for lane in lanes} & DEPTHS.keys():
            mine = [lane for lane in lanes if lane.queue == queue]
            depths = DEPTHS[queue](lane.pk for lane in mine)
            for lane in mine:
                lane.depth = depths.get(lane.pk, 0)
        calls = _calls(lane.token_id for lane in lanes)
        for lane in lanes:
            lane.calls = calls.get(lane.token_id)
        changelist.result_list = lanes
        return changelist

    @display(description="lane", ordering="name", header=True)
    def lane(self, lane: Lane) -> tuple[str, str]:
        return lane.name, lane.queue

    @display(
        description="state",
        label={
            "free": "success",
            "paused": "warning",
            "vendor refuses": "danger",
            "trying one call": "warning",
            "slowed": "info",
        },
    )
    def state(self, lane: Lane) -> str:
        if lane.paused_at:
            return "paused"
        if lane.breaker == Lane.Breaker.OPEN:
            return "vendor refuses"
        if lane.breaker == Lane.Breaker.HALF_OPEN:
            return "trying one call"
        slowed = lane.rate_now and lane.rate_per_second and lane.rate_now < lane.rate_per_second
        return "slowed" if slowed else "free"

    @display(description="rate", ordering="rate_per_second")
    def rate(self, lane: Lane) -> str:
        if lane.rate_per_second is None:
            return "as it answers"
        now_at = lane.rate_now if lane.rate_now is not None else lane.rate_per_second
        return f"{now_at:g} of {lane.rate_per_second:g}/s"

    @display(description="calls used")
    def allowance_used(self, lane: Any) -> str:
        """Show the token's allowance of calls, which its lanes share."""
        calls = lane.calls if hasattr(lane, "calls") else _calls([lane.token_id]).get(lane.token_id)
        if calls is None:
            return "no limit"
        used = calls.spent + calls.held
        share = min(1.0, used / calls.limit) if calls.limit else 1.0
        tone = "full" if share >= 1 else "near" if share >= NEAR else "used"
        resets = calls.resets_at if used else None
        reset = f", some back in {timeuntil(resets, depth=1)}" if resets else ""
        return format_html(
            '<div class="t-use"><span class="t-num">{}</span><svg class="t-bar" viewBox="0 0 100 1" '
            'preserveAspectRatio="none"><rect width="{}" height="1" class="t-fill-{}"/></svg></div>',
            f"{used:,} of {calls.limit:,} in {calls.get_window_display()}{reset}",
            round(100 * share, 1),
            tone,
        )

    @display(description="waiting")
    def waiting(self, lane: Lane) -> str:
        depth = getattr(lane, "depth", None)
        return "" if depth is None else f"{depth:,}"

    @display(description="drained by")
    def lease(self, lane: Lane) -> str:
        if lane.leased_until is None or lane.leased_until < now():
            return "nobody now"
        return f"run {lane.holder}"

    @display(description="why")
    def why(self, lane: Lane) -> str:
        if lane.paused_at:
            since = timesince(lane.paused_at, depth=1)
            return f"{lane.pause_reason or 'operator'}, {since} ago"
        if lane.breaker == Lane.Breaker.OPEN:
            again = f", tried again in {timeuntil(lane.open_until, depth=1)}" if lane.open_until else ""
            return (lane.last_error[:80] or "refused") + again
        return ""

    @object_action(
        "Pause",
        icon="pause",
        when=lambda lane: lane.paused_at is None,
        confirm="Nothing leaves by this lane until somebody resumes it. Pause it?",
    )
    def pause(self, request: HttpRequest, lane: Lane) -> str:
        actions.pause_lane(lane_id=lane.pk, reason="operator")
        return f"{lane.name} is paused: nothing leaves by it until it is resumed."

    @object_action(
        "Resume",
        icon="play_arrow",
        variant="primary",
        when=lambda lane: lane.paused_at is not None,
        confirm="Has what stopped it been put right? Sending goes on at once.",
    )
    def resume(self, request: HttpRequest, lane: Lane) -> str:
        actions.resume_lane(lane_id=lane.pk)
        return f"{lane.name} goes on."

    @admin.action(description="Pause the chosen lanes", permissions=["operate"])
    def pause_lanes(self, request: HttpRequest, lanes: models.QuerySet[Lane]) -> None:
        chosen = list(lanes.filter(paused_at=None))
        act_on_each(
            self,
            request,
            chosen,
            lambda lane: actions.pause_lane(lane_id=lane.pk, reason="operator"),
            "paused",
        )

    @admin.action(description="Resume the chosen lanes", permissions=["operate"])
    def resume_lanes(self, request: HttpRequest, lanes: models.QuerySet[Lane]) -> None:
        chosen = list(lanes.exclude(paused_at=None))
        act_on_each(self, request, chosen, lambda lane: actions.resume_lane(lane_id=lane.pk), "resumed")


def _calls(token_ids: Iterable[int]) -> dict[int, AllowanceLeft]:
    """Read what these tokens may still call: {token: its first allowance of calls}."""
    rows = AllowanceLeft.objects.filter(token_id__in=set(token_ids), unit="calls").order_by("-id")
    return {row.token_id: row for row in rows}
