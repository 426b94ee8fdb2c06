"""The queues' page: lanes, what they may do, what holds them back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin
from django.core.exceptions import ValidationError
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
from engine.models import Lane
from tenants.admin_actions import act_on_each, object_action
from tenants.admin_base import TenantModelAdmin, TenantModelForm

NEAR = 0.8
"""The share of an allowance from which a lane is worth a look."""

DEPTHS: dict[str, Callable[[Iterable[int]], dict[int, int]]] = {}
"""By queue: counts the open rows of some lanes, cheaply. Each queue's app adds its own."""


class LaneStateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [
            ("paused", "Paused"),
            ("open", "Vendor refuses"),
            ("near", "Near its allowance"),
            ("free", "Free"),
        ]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        paused, refused = Q(paused_at__isnull=False), Q(breaker=Lane.Breaker.OPEN)
        near = Q(allowance__isnull=False, used__gte=NEAR * F("allowance"))
        match self.value():
            case "paused":
                return queryset.filter(paused)
            case "open":
                return queryset.filter(refused)
            case "near":
                return queryset.filter(near)
            case "free":
                return queryset.exclude(paused).exclude(refused)
        return queryset


class LaneForm(TenantModelForm):
    def clean_allowance(self) -> int | None:
        allowance: int | None = self.cleaned_data["allowance"]
        lane = self.instance
        if allowance is not None and allowance < lane.used:
            raise ValidationError(f"{lane.used:,} are used already in the window that runs now.")
        return allowance


@admin.register(Lane)
class LaneAdmin(TenantModelAdmin):
    """The queues' page: one row for each thing that a vendor limits."""

    form = LaneForm

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
                    "max_in_flight",
                    "allowance",
                    "window",
                    "used",
                    "window_ends_at",
                )
            },
        ),
        ("Lease", {"fields": ("lease", "holder", "fence", "leased_until", "last_error")}),
    )
    readonly_fields = (
        *("queue", "name", "token", "state", "why"),
        *("rate_per_second", "rate_now", "used", "window_ends_at"),  # a sender sets its lane's rate
        *("lease", "holder", "fence", "leased_until", "last_error"),
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
        changelist.result_list = lanes
        return changelist

    @display(description="lane", ordering="name", header=True)
    def lane(self, lane: Lane) -> tuple[str, str]:
        return lane.name, lane.queue

    @display(
        description="state",
        label={"free": "success", "paused": "warning", "vendor refuses": "danger", "slowed": "info"},
    )
    def state(self, lane: Lane) -> str:
        if lane.paused_at:
            return "paused"
        if lane.breaker == Lane.Breaker.OPEN:
            return "vendor refuses"
        slowed = lane.rate_now and lane.rate_per_second and lane.rate_now < lane.rate_per_second
        return "slowed" if slowed else "free"

    @display(description="rate", ordering="rate_per_second")
    def rate(self, lane: Lane) -> str:
        if lane.rate_per_second is None:
            return "as it answers"
        now_at = lane.rate_now if lane.rate_now is not None else lane.rate_per_second
        return f"{now_at:g} of {lane.rate_per_second:g}/s"

    @display(description="allowance used", ordering="used")
    def allowance_used(self, lane: Lane) -> str:
        if not lane.allowance:
            return "no limit"
        over = lane.window_ends_at is not None and lane.window_ends_at <= now()
        used = 0 if over else lane.used
        share = min(1.0, used / lane.allowance)
        tone = "full" if share >= 1 else "near" if share >= NEAR else "used"
        reset = (
            f", resets in {timeuntil(lane.window_ends_at, depth=1)}"
            if lane.window_ends_at and not over
            else ""
        )
        return format_html(
            '<div class="t-use"><span class="t-num">{}</span><svg class="t-bar" viewBox="0 0 100 1" '
            'preserveAspectRatio="none"><rect width="{}" height="1" class="t-fill-{}"/></svg></div>',
            f"{used:,} of {lane.allowance:,} per {lane.window}{reset}",
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
