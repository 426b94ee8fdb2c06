"""The admin's front page: what is queued, what is going out, what holds it back, what needs a person.

Everything is read from tallies, runs and rows that a partial index finds; messages are never scanned.
The page draws itself from `snapshot`, once embedded and then fetched every two seconds.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import connection
from django.db.models import F, Q, Sum
from django.http import HttpRequest, HttpResponseForbidden, JsonResponse
from django.http.response import HttpResponse, HttpResponseBase
from django.urls import reverse
from django.utils.timezone import now

from config.queues import CAP, depth
from engine.models import Heartbeat, Incident, Lane, Run
from engine.processor.registry import all_queues
from engine.querysets import NEAR
from messaging.models import Broadcast, Message, MessageTally
from tenants.admin_roles import Role, role_of

LIVE = (Broadcast.State.RUNNING, Broadcast.State.PAUSED)
STALE_HEARTBEAT = timedelta(minutes=3)


def index_context(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold's hook: give the front page its first snapshot."""
    return {**context, "snapshot": snapshot(request), "live_url": reverse("admin:live"), "title": "Dashboard"}


def live_view(request: HttpRequest) -> HttpResponseBase:
    """Answer the page's polling."""
    if role_of(request) < Role.VIEWER:
        return HttpResponseForbidden()
    answer: HttpResponse = JsonResponse(snapshot(request))
    answer["Cache-Control"] = "no-store"
    return answer


def snapshot(request: HttpRequest) -> dict[str, Any]:
    """Collect what the page shows, for the tenants that this request sees."""
    if role_of(request) < Role.VIEWER:
        return {}
    broadcasts = live_broadcasts()
    platform = role_of(request) == Role.PLATFORM
    return {
        "at": now().isoformat(),
        "platform": platform,
        "tiles": tiles(broadcasts),
        "broadcasts": broadcasts,
        "lanes": held_lanes(),
        "incidents": open_incidents(),
        "day": last_day(),
        "queues": queues() if platform else [],
        "hours": throughput() if platform else [],
        "clusters": clusters() if platform else [],
    }


def tallies(broadcasts: list[int]) -> dict[int, dict[str, int]]:
    """Count messages by broadcast and state; one read of the tally's index."""
    counted: dict[int, dict[str, int]] = {broadcast: {} for broadcast in broadcasts}
    rows = MessageTally.objects.filter(broadcast__in=broadcasts).values("broadcast", "state")
    for row in rows.annotate(count=Sum("n")).order_by():
        if row["count"]:
            counted[row["broadcast"]][row["state"]] = row["count"]
    return counted


def live_broadcasts() -> list[dict[str, Any]]:
    """List the broadcasts under way, latest first, and those that will start by themselves."""
    rows = list(
        Broadcast.objects.filter(state__in=[*LIVE, Broadcast.State.SCHEDULED])
        .select_related("tenant", "sender")
        .order_by("-launched_at", "-id")[:12]
    )
    counted = tallies([row.pk for row in rows])
    return [
        {
            "id": row.pk,
            "name": row.name,
            "tenant": row.tenant.name,
            "sender": str(row.sender),
            "state": row.state,
            "why": row.get_pause_reason_display() if row.pause_reason else "",
            "scheduled_at": row.scheduled_at and row.scheduled_at.isoformat(),
            "total": row.total,
            "counts": counted[row.pk],
            "url": reverse("admin:messaging_broadcast_change", args=(row.pk,)),
        }
        for row in rows
    ]


def tiles(broadcasts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Count what the four numbers at the top say."""
    waiting = sum(
        row["counts"].get(state, 0)
        for row in broadcasts
        for state in Message.OPEN
        if row["state"] != "scheduled"
    )
    incidents = Incident.objects.filter(ended_at=None).order_by()[:100].count()
    doubt = Message.objects.filter(state=Message.State.IN_DOUBT).order_by()[:1000].count()
    running = sum(row["state"] == "running" for row in broadcasts)
    paused = sum(row["state"] == "paused" for row in broadcasts)
    url = reverse("admin:messaging_broadcast_changelist")
    return [
        {"title": "Running broadcasts", "value": running, "note": f"{paused} paused", "url": url},
        {"title": "Messages waiting", "value": waiting, "note": "queued or on their way out", "url": url},
        {
            "title": "In doubt",
            "value": doubt,
            "note": "a person decides" if doubt else "nothing to decide",
            "tone": "warning" if doubt else "",
            "url": reverse("admin:messaging_message_changelist") + "?state__exact=in_doubt",
        },
        {
            "title": "Open incidents",
            "value": incidents,
            "note": "look at these first" if incidents else "all is well",
            "tone": "danger" if incidents else "",
            "url": reverse("admin:engine_incident_changelist") + "?state=open",
        },
    ]


def held_lanes() -> list[dict[str, Any]]:
    """Lanes that are paused, broken off, cut by throttling or near the end of their allowance."""
    near = Q(calls_used__gte=NEAR * F("calls_limit"))
    cut = Q(rate_now__isnull=False, rate_now__lt=NEAR * F("rate_per_second"))
    rows = Lane.objects.with_calls().filter(
        Q(paused_at__isnull=False) | ~Q(breaker=Lane.Breaker.CLOSED) | near | cut
    )
    return [
        {
            "name": lane.name,
            "queue": lane.queue,
            "tenant": lane.tenant.name if lane.tenant else "platform",
            "why": why_held(lane),
            "used": lane.calls_used,
            "allowance": lane.calls_limit,
            "resets_at": lane.calls_reset_at and lane.calls_reset_at.isoformat(),
            "url": reverse("admin:engine_lane_change", args=(lane.pk,)),
        }
        for lane in rows.select_related("tenant").order_by("-paused_at", "id")[:20]
    ]


def why_held(lane: Any) -> str:
    """Say in a few words what holds a lane back, the strongest reason first; empty: nothing."""
    if lane.paused_at:
        return f"paused: {lane.pause_reason or 'operator'}"
    if lane.breaker == Lane.Breaker.OPEN:
        return "vendor refuses, waiting" if lane.open_until else "vendor refuses"
    if lane.breaker == Lane.Breaker.HALF_OPEN:
        return "trying one call"
    if lane.calls_limit and lane.calls_used >= NEAR * lane.calls_limit:
        return "allowance used up" if lane.calls_used >= lane.calls_limit else "near its allowance"
    if lane.rate_now and lane.rate_per_second and lane.rate_now < NEAR * lane.rate_per_second:
        return f"slowed to {lane.rate_now:.0f}/s"
    return ""


def open_incidents() -> list[dict[str, Any]]:
    rows = Incident.objects.filter(ended_at=None).select_related("tenant").order_by("severity", "-id")[:10]
    return [
        {
            "summary": row.summary,
            "severity": row.severity,
            "tenant": row.tenant.name if row.tenant else "",
            "opened_at": row.opened_at.isoformat(),
            "url": reverse("admin:engine_incident_change", args=(row.pk,)),
        }
        for row in rows
    ]


def last_day() -> dict[str, int]:
    """Count the messages of the broadcasts that were launched in the last 24 hours, by state."""
    recent = Broadcast.objects.filter(launched_at__gte=now() - timedelta(hours=24)).order_by("-id")
    by_state: dict[str, int] = {}
    for counts in tallies(list(recent.values_list("pk", flat=True)[:500])).values():
        for state, n in counts.items():
            by_state[state] = by_state.get(state, 0) + n
    return by_state


def queues() -> list[dict[str, Any]]:
    """One row per queue: how much is due, since when, and what its last run did."""
    found = []
    for queue in all_queues():
        due = depth(queue)
        oldest = now() - timedelta(seconds=due.oldest_due_seconds)
        run = Run.objects.filter(queue=queue).order_by("-id").first()
        found.append(
            {
                "queue": queue,
                "depth": due.waiting,
                "capped": due.waiting >= CAP,
                "oldest": oldest.isoformat() if due.waiting else None,
                "run": run
                and {
                    "state": run.state,
                    "at": (run.ended_at or run.started_at).isoformat(),
                    "rate": round(run.per_second, 1),
                    "done": run.done,
                    "failed": run.failed,
                    "url": reverse("admin:engine_run_change", args=(run.pk,)),
                },
            }
        )
    return found


def throughput() -> list[dict[str, Any]]:
    """Sum the runs of the last 24 hours by hour. Reads the latest runs by their index, and only those."""
    since = now() - timedelta(hours=24)
    latest = """
        SELECT date_trunc('hour', started_at), queue, sum(done), sum(failed), sum(in_doubt)
          FROM (SELECT * FROM engine_run ORDER BY id DESC LIMIT 12000) latest
         WHERE started_at >= %s GROUP BY 1, 2
    """
    with connection.cursor() as cursor:
        cursor.execute(latest, [since])
        rows = cursor.fetchall()
    hours = [since.replace(minute=0, second=0, microsecond=0) + timedelta(hours=h) for h in range(1, 25)]
    return [
        {
            "hour": hour.isoformat(),
            "done": sum(row[2] for row in rows if row[0] == hour and row[1] != "events"),
            "failed": sum(row[3] for row in rows if row[0] == hour and row[1] != "events"),
            "in_doubt": sum(row[4] for row in rows if row[0] == hour and row[1] != "events"),
        }
        for hour in hours
    ]


def clusters() -> list[dict[str, Any]]:
    at = now()
    return [
        {"name": row.cluster, "at": row.beat_at.isoformat(), "alive": at - row.beat_at < STALE_HEARTBEAT}
        for row in Heartbeat.objects.order_by("cluster")[:20]
    ]
