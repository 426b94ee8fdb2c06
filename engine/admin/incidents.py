"""What a person should know, and the buttons that end it: incidents, held flows."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter
from unfold.decorators import display

from engine import actions
from engine.models import FlowHold, Incident
from engine.watch.incidents import end_incident
from tenants.admin_actions import act_on_each, object_action
from tenants.admin_base import LedgerAdmin, badge


class IncidentStateFilter(DropdownFilter):
    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Open"), ("ended", "Ended")]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        chosen = self.value()
        return queryset.filter(ended_at__isnull=chosen == "open") if chosen else queryset


class KindFilter(DropdownFilter):
    title = "kind"
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        kinds = (
            Incident.objects.filter(ended_at=None).order_by("kind").values_list("kind", flat=True).distinct()
        )
        return [(kind, kind.replace("_", " ")) for kind in kinds]

    def queryset(self, request: HttpRequest, queryset: models.QuerySet[Any]) -> models.QuerySet[Any]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


@admin.register(Incident)
class IncidentAdmin(LedgerAdmin):
    """What a person should know. Opened and ended by the engine; a person may end one by hand."""

    list_display = ("summary", "state", badge("severity"), "kind", "opened_at", "seen_at", "ended_at")
    list_filter = (IncidentStateFilter, ("severity", ChoicesDropdownFilter), KindFilter)
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

        act_on_each(self, request, list(incidents.filter(ended_at=None)), end, "ended")


@admin.register(FlowHold)
class FlowHoldAdmin(LedgerAdmin):
    """Flows of which nothing is claimed until a person lets them go on."""

    list_display = ("hold", "reason", "detail_start", "held_at")
    search_fields = ("reason",)
    actions = ("release_flows",)

    @display(description="flow", ordering="id")
    def hold(self, hold: FlowHold) -> str:
        return f"{hold.processor} {hold.flow}"

    @display(description="detail")
    def detail_start(self, hold: FlowHold) -> str:
        return hold.detail[:80]

    @object_action(
        "Let it go on",
        icon="play_arrow",
        variant="primary",
        confirm="Has what stopped it been put right? Its rows are claimed again at once.",
    )
    def release(self, request: HttpRequest, hold: FlowHold) -> str:
        actions.release_flow(hold_id=hold.pk)
        return "The flow goes on."

    @admin.action(description="Let the chosen flows go on", permissions=["operate"])
    def release_flows(self, request: HttpRequest, holds: models.QuerySet[FlowHold]) -> None:
        act_on_each(
            self, request, list(holds), lambda hold: actions.release_flow(hold_id=hold.pk), "released"
        )
