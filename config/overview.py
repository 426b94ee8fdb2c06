"""What `status` tells: one plain document of how everything stands."""

from __future__ import annotations

from typing import Any, Final

from django.db.models import F

from config.health import heartbeat_ages
from config.queues import CAP, depths
from engine.models import Incident, Lane, Run
from tenants.scope import all_tenants

MOST_LANES: Final = 50
MOST_RUNS: Final = 10


def overview() -> dict[str, Any]:
    """Build the document: queues, lanes with their allowances, open incidents, last runs, clusters.

    Lanes that are held back or near their allowance come first; at most 50 are listed, `lanes_total`
    says how many there are.
    """
    with all_tenants():
        return {
            "queues": [
                {
                    "queue": depth.queue,
                    "waiting": depth.waiting,
                    "capped": depth.waiting >= CAP,
                    "oldest_due_seconds": depth.oldest_due_seconds,
                }
                for depth in depths()
            ],
            "clusters": [
                {"cluster": name, "seen_seconds_ago": age} for name, age in heartbeat_ages().items()
            ],
            "lanes_total": Lane.objects.count(),
            "lanes": [lane_row(lane) for lane in busiest_lanes()],
            "incidents": [
                incident_row(i) for i in Incident.objects.filter(ended_at=None).order_by("opened_at")
            ],
            "runs": [run_row(run) for run in Run.objects.order_by("-id")[:MOST_RUNS]],
        }


def busiest_lanes() -> list[Any]:
    """Return lanes with their calls (`with_calls`): what is held first, then what is used most."""
    lanes = Lane.objects.with_calls().select_related("tenant", "token")
    held = list(lanes.exclude(paused_at=None).order_by("id")[:MOST_LANES])
    held += lanes.filter(paused_at=None, breaker=Lane.Breaker.OPEN).order_by("id")[:MOST_LANES]
    seen = {lane.pk for lane in held}
    others = lanes.exclude(pk__in=seen).order_by(F("calls_used").desc(nulls_last=True), "id")[:MOST_LANES]
    return [*held, *others][:MOST_LANES]


def lane_row(lane: Any) -> dict[str, Any]:
    return {
        "id": lane.pk,
        "queue": lane.queue,
        "tenant": lane.tenant and lane.tenant.slug,
        "name": lane.name,
        "state": lane_state(lane),
        "rate_per_second": lane.rate_per_second,
        "rate_now": lane.rate_now,
        "allowance": lane.calls_limit,
        "used": lane.calls_used or 0,
        "resets_at": lane.calls_reset_at,
        "token": lane.token.state,
        "last_error": lane.last_error,
    }


def lane_state(lane: Lane) -> str:
    if lane.paused_at:
        return f"paused: {lane.pause_reason}"
    if lane.breaker != Lane.Breaker.CLOSED:
        return "breaker open" if lane.breaker == Lane.Breaker.OPEN else "trying one call"
    return "running" if lane.holder else "idle"


def incident_row(incident: Incident) -> dict[str, Any]:
    return {
        "id": incident.pk,
        "tenant": incident.tenant_id,
        "kind": incident.kind,
        "scope": incident.scope,
        "severity": incident.severity,
        "summary": incident.summary,
        "opened_at": incident.opened_at,
    }


def run_row(run: Run) -> dict[str, Any]:
    counts = ("claimed", "done", "failed", "retried", "throttled", "in_doubt", "held", "calls")
    return {
        "id": run.pk,
        "queue": run.queue,
        "state": run.state,
        "started_at": run.started_at,
        "seconds": round(run.seconds, 1),
        **{name: getattr(run, name) for name in counts},
        "per_second": round(run.per_second, 1),
        "error": run.error,
    }
