"""What machines wrote and people read: runs, webhooks as they came, heartbeats."""

from __future__ import annotations

import json
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.timezone import now
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter
from unfold.decorators import display

from engine import actions
from engine.models import Heartbeat, Receipt, Run
from engine.watch.heartbeats import SILENT_SECONDS, cluster_names
from tenants.admin_base import PlatformAdmin, badge


class QueueFilter(DropdownFilter):
    title = "queue"
    parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(queue, queue) for queue in settings.QUEUES]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        return queryset.filter(queue=self.value()) if self.value() else queryset


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
        return f"{run.processor or run.queue} {run.pk}", run.process

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


class ReceiptStateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

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
    """When a worker of each cluster last began a task."""

    list_display = ("cluster", "state", "beat_at", "process")
    ordering = ("cluster",)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    has_change_permission = has_delete_permission = has_add_permission

    @display(description="state", label={"works": "success", "silent": "danger", "not in use": "warning"})
    def state(self, heart: Heartbeat) -> str:
        if heart.cluster not in cluster_names():
            return "not in use"
        return "silent" if (now() - heart.beat_at).total_seconds() > SILENT_SECONDS else "works"


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
