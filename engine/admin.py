"""Queues and lanes, runs, incidents and webhooks in the admin."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.timesince import timesince, timeuntil
from django.utils.timezone import now
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter
from unfold.decorators import display

from engine import actions
from engine.incidents import end_incident
from engine.models import Heartbeat, Incident, Lane, Receipt, Run
from engine.tokens import check_token
from tenants.admin import ProviderTokenAdmin
from tenants.admin_actions import object_action
from tenants.admin_base import LedgerAdmin, PlatformAdmin, TenantModelAdmin, TenantModelForm, badge
from tenants.errors import ActionRefused
from tenants.models import ProviderToken

NEAR = 0.8
"""The share of an allowance from which a lane is worth a look."""

DEPTHS: dict[str, Callable[[Iterable[int]], dict[int, int]]] = {}
"""By queue: counts the open rows of some lanes, cheaply. Each queue's app adds its own."""


class QueueFilter(DropdownFilter):
    title = "queue"
    parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(queue, queue) for queue in settings.QUEUES]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        return queryset.filter(queue=self.value()) if self.value() else queryset


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
        each(
            self,
            request,
            chosen,
            lambda lane: actions.pause_lane(lane_id=lane.pk, reason="operator"),
            "paused",
        )

    @admin.action(description="Resume the chosen lanes", permissions=["operate"])
    def resume_lanes(self, request: HttpRequest, lanes: models.QuerySet[Lane]) -> None:
        chosen = list(lanes.exclude(paused_at=None))
        each(self, request, chosen, lambda lane: actions.resume_lane(lane_id=lane.pk), "resumed")


@admin.register(ProviderToken)
class CheckableTokenAdmin(ProviderTokenAdmin):
    """Tokens, with the button that asks the vendor. Here, since `tenants` calls nobody."""

    @object_action("Check now", icon="wifi_tethering", variant="primary", network=True)
    def check_now(self, request: HttpRequest, token: ProviderToken) -> str:
        standing, detail = check_token(token_id=token.pk)
        return f"{token}: {standing.value}. {detail}"


@admin.register(Run)
class RunAdmin(PlatformAdmin):
    """The ledger of what the processors did. A run serves many tenants, so only our own staff read it."""

    list_display = ("run", badge(), "started_at", "took", "claimed", "outcome", "rate", "error_start")
    list_filter = (("state", ChoicesDropdownFilter), QueueFilter)
    ordering = ("-id",)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission

    @display(description="run", ordering="id", header=True)
    def run(self, run: Run) -> tuple[str, str]:
        return f"{run.queue} {run.pk}", run.process

    @display(description="took")
    def took(self, run: Run) -> str:
        return f"{run.seconds:,.1f} s"

    @display(description="done, retried, failed, in doubt")
    def outcome(self, run: Run) -> str:
        return f"{run.done:,} / {run.retried:,} / {run.failed:,} / {run.in_doubt:,}"

    @display(description="per second")
    def rate(self, run: Run) -> str:
        return f"{run.per_second:,.1f}"

    @display(description="error")
    def error_start(self, run: Run) -> str:
        return run.error[:60]


class IncidentStateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Open"), ("ended", "Ended")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        chosen = self.value()
        return queryset.filter(ended_at__isnull=chosen == "open") if chosen else queryset


@admin.register(Incident)
class IncidentAdmin(LedgerAdmin):
    """What a person should know. Opened and ended by the engine; a person may end one by hand."""

    list_display = ("summary", "state", badge("severity"), "kind", "opened_at", "seen_at", "ended_at")
    list_filter = (IncidentStateFilter, ("severity", ChoicesDropdownFilter))
    actions = ("end_incidents",)

    @display(description="state", label={"open": "danger", "ended": "success"})
    def state(self, incident: Incident) -> str:
        return "open" if incident.ended_at is None else "ended"

    @object_action(
        "End",
        icon="check",
        when=lambda incident: incident.ended_at is None,
        confirm="It is told as ended, and opens again by itself if it happens again. End it?",
    )
    def end(self, request: HttpRequest, incident: Incident) -> str:
        end_incident(tenant_id=incident.tenant_id, kind=incident.kind, scope=incident.scope)
        return "The incident is ended."

    @admin.action(description="End the chosen incidents", permissions=["operate"])
    def end_incidents(self, request: HttpRequest, incidents: models.QuerySet[Incident]) -> None:
        def end(row: Incident) -> int:
            return end_incident(tenant_id=row.tenant_id, kind=row.kind, scope=row.scope)

        each(self, request, list(incidents.filter(ended_at=None)), end, "ended")


class ReceiptStateFilter(IncidentStateFilter):
    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("waiting", "Waiting"), ("applied", "Applied"), ("error", "With an error, not applied")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        match self.value():
            case "waiting":
                return queryset.filter(applied_at=None)
            case "applied":
                return queryset.exclude(applied_at=None)
            case "error":
                return queryset.filter(applied_at=None).exclude(error="")
        return queryset


@admin.register(Receipt)
class ReceiptAdmin(PlatformAdmin):
    """Webhooks as they came. They name people, so a list shows none of their content."""

    list_display = ("received", "state", "provider", "received_at", "applied_at", "attempts", "error_start")
    list_filter = (ReceiptStateFilter,)
    fields = ("provider", "received_at", "applied_at", "due_at", "attempts", "error", "content")
    readonly_fields = fields
    ordering = ("-id",)
    actions = ("apply_again",)

    @admin.action(description="Apply the chosen webhooks again", permissions=["operate"])
    def apply_again(self, request: HttpRequest, receipts: models.QuerySet[Receipt]) -> None:
        retried = actions.retry_receipts(receipt_ids=list(receipts.values_list("pk", flat=True)))
        self.message_user(request, f"{retried:,} webhooks are applied again.")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        rows: models.QuerySet[Any] = super().get_queryset(request)
        one = request.resolver_match and "object_id" in request.resolver_match.kwargs
        return rows if one else rows.defer("body")  # a list need not read up to 3 MB a row

    @display(description="webhook", ordering="id")
    def received(self, receipt: Receipt) -> str:
        return f"{receipt.provider} {receipt.pk}"

    @display(description="state", label={"applied": "success", "waiting": "info", "error": "danger"})
    def state(self, receipt: Receipt) -> str:
        return "applied" if receipt.applied_at else "error" if receipt.error else "waiting"

    @display(description="error")
    def error_start(self, receipt: Receipt) -> str:
        return receipt.error[:80]

    @display(description="content, people's numbers and texts hidden")
    def content(self, receipt: Receipt) -> str:
        return format_html('<pre class="t-json">{}</pre>', readable(bytes(receipt.body)))


@admin.register(Heartbeat)
class HeartbeatAdmin(PlatformAdmin):
    """When each cluster was last seen working."""

    list_display = ("cluster", "beat_at", "process")
    ordering = ("cluster",)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission


PERSONAL = {
    "from",
    "wa_id",
    "recipient_id",
    "input",
    "body",
    "text",
    "name",
    "caption",
    "user_id",
    "email",
    "phone",
}
"""Keys of vendors' webhooks whose values are somebody's number, name or words."""


def readable(body: bytes, most: int = 20_000) -> str:
    """Print a webhook for reading, with what is personal masked; what is no JSON is not shown at all."""
    try:
        content = json.loads(body)
    except ValueError:
        return f"{len(body):,} bytes that are no JSON"
    printed = json.dumps(_masked(content), indent=2, ensure_ascii=False)
    return (
        printed if len(printed) <= most else printed[:most] + f"\n… {len(printed) - most:,} more characters"
    )


def _masked(value: Any, personal: bool = False) -> Any:
    if isinstance(value, dict):
        return {key: _masked(inner, key in PERSONAL) for key, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner, personal) for inner in value]
    if personal and isinstance(value, str) and value:
        return f"…{value[-2:]}" if value.isdigit() and len(value) > 6 else "…"
    return value


def each(page: Any, request: HttpRequest, rows: list[Any], act: Callable[[Any], Any], done: str) -> None:
    """Do one verb to each of some rows; tell how many it was done to, and why not to the others."""
    count = 0
    for row in rows:
        try:
            act(row)
        except ActionRefused as refusal:
            page.message_user(request, f"{row}: {refusal.reason}", messages.ERROR)
        else:
            count += 1
    page.message_user(request, f"{count} {done}.", messages.SUCCESS if count else messages.WARNING)
