"""What stands in the admin's side bar: rooms, their pages, what waits there, and whose rows they are."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib import admin
from django.http import HttpRequest
from django.urls import reverse

from engine.models import Incident
from messaging.models import Message
from tenants.admin_roles import Role, role_of
from tenants.models import Tenant
from tenants.scope import ALL, NoTenantScope, current_scope

BADGE_CAP = 99

ROOMS: list[tuple[str, list[tuple[str, str, str]]]] = [
    (
        "Campaigns",
        [
            ("campaigns.campaign", "Campaigns", "flag"),
            ("campaigns.contact", "Contacts", "contacts"),
            ("campaigns.segment", "Segments", "filter_alt"),
            ("campaigns.cohort", "Cohorts", "groups"),
            ("campaigns.socialaccount", "Social accounts", "alternate_email"),
            ("campaigns.spinentry", "Spin ledger", "casino"),
        ],
    ),
    (
        "Messaging",
        [
            ("messaging.broadcast", "Broadcasts", "campaign"),
            ("messaging.message", "Messages", "chat"),
            ("messaging.messagetemplate", "Templates", "article"),
            ("messaging.sender", "Senders", "send"),
            ("messaging.suppression", "Suppressions", "do_not_disturb_on"),
        ],
    ),
    (
        "Engine",
        [
            ("engine.lane", "Queues and lanes", "fork_right"),
            ("engine.allowance", "Allowances", "data_usage"),
            ("engine.run", "Runs", "history"),
            ("engine.incident", "Incidents", "warning"),
            ("engine.flowhold", "Flow holds", "front_hand"),
            ("engine.receipt", "Webhooks received", "webhook"),
            ("engine.heartbeat", "Clusters", "monitor_heart"),
        ],
    ),
    (
        "Tenants",
        [
            ("tenants.tenant", "Tenants", "domain"),
            ("tenants.membership", "Members", "badge"),
            ("tenants.providertoken", "Provider tokens", "key"),
            ("tenants.apikey", "API keys", "api"),
        ],
    ),
    (
        "Machinery",
        [
            ("django_q.schedule", "Schedules", "schedule"),
            ("django_q.ormq", "Queued ticks", "hourglass_top"),
            ("django_q.failure", "Failed ticks", "error"),
            ("django_q.success", "Finished ticks", "task_alt"),
            ("auth.user", "Users", "person"),
            ("auth.group", "Groups", "group"),
        ],
    ),
]


def sidebar(request: HttpRequest) -> list[dict[str, Any]]:
    """List the pages that this person may open, room by room, with what waits on them."""
    waiting = badges(request)
    rooms: list[dict[str, Any]] = [
        {"items": [{"title": "Dashboard", "icon": "space_dashboard", "link": reverse("admin:index")}]}
    ]
    for title, pages in ROOMS:
        items = [
            {
                "title": name,
                "icon": icon,
                "link": reverse(f"admin:{label.replace('.', '_')}_changelist"),
                **waiting.get(label, {}),
            }
            for label, name, icon in pages
            if _may_open(request, label)
        ]
        if items:
            rooms.append({"title": title, "separator": True, "items": items})
    return rooms


def badges(request: HttpRequest) -> dict[str, dict[str, Any]]:
    """Count what a person should look at; both counts stand on a partial index and stop at the cap."""
    if role_of(request) < Role.VIEWER:
        return {}
    counts = {
        "engine.incident": ("danger", Incident.objects.filter(ended_at=None)),
        "messaging.message": ("warning", Message.objects.filter(state=Message.State.IN_DOUBT)),
    }
    found = {}
    for label, (colour, rows) in counts.items():
        if n := rows.order_by()[: BADGE_CAP + 1].count():
            text = f"{BADGE_CAP}+" if n > BADGE_CAP else str(n)
            found[label] = {"badge": text, "badge_variant": colour}
    return found


def whose_rows(request: HttpRequest) -> str | None:
    """Name the tenant whose rows this request shows."""
    if role_of(request) < Role.VIEWER:
        return None
    scope = current_scope()
    if scope == ALL:
        return "All tenants"
    cached: str | None = request.__dict__.get("_turnout_tenant_name")
    if cached is None:
        cached = Tenant.objects.values_list("name", flat=True).get(pk=scope)
        request.__dict__["_turnout_tenant_name"] = cached
    return cached


def current_tenant() -> int | None:
    """Return the tenant in scope, or None for all of them or nobody."""
    try:
        scope = current_scope()
    except NoTenantScope:
        return None
    return None if scope == ALL else scope


def _may_open(request: HttpRequest, label: str) -> bool:
    model = apps.get_model(label)
    page = admin.site._registry.get(model)
    return bool(page and page.has_view_permission(request))


def tenant_choices(request: HttpRequest) -> list[dict[str, Any]]:
    """List what the switch in the header offers; empty for people who belong to one tenant only."""
    role = role_of(request)
    if role < Role.VIEWER:
        return []
    chosen = current_tenant()
    if role == Role.PLATFORM:
        tenants = list(Tenant.objects.values_list("pk", "name")[:200])
        everybody = {"value": "", "title": "All tenants", "icon": "public", "current": chosen is None}
    else:
        tenants = [(member.tenant_id, member.tenant.name) for member in getattr(request, "memberships", [])]
        everybody = None
        if len(tenants) < 2:
            return []
    choices = [
        {"value": pk, "title": name, "icon": "domain", "current": pk == chosen} for pk, name in tenants
    ]
    return [everybody, *choices] if everybody else choices
