"""What the minute looks at, and the incidents that follow: each check says what is wrong now, and what is
no longer said is over."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Count, F, Q, Sum
from django.utils import timezone

from engine.inbox.receipts import MOST_ATTEMPTS
from engine.models import Heartbeat, Incident, Lane, Receipt, Run
from engine.processor.registry import all_queues, get_queue
from engine.watch.incidents import Severity, end_incident, open_incident

LATELY = timedelta(minutes=10)
FEWEST_ROWS = 50
WORST_SUCCESS = 0.8
LONG_QUEUE = 10_000
NEAR_ALLOWANCE = 0.8
STALE_LANE = timedelta(minutes=3)
SILENT_CLUSTER = timedelta(minutes=3)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong now."""

    scope: str
    summary: str
    tenant_id: int | None = None
    severity: Severity = "warning"


Check = Callable[[], Iterable[Finding]]
_checks: dict[str, Check] = {}


def register_check(kind: str, check: Check) -> None:
    """Let `check` decide which incidents of this kind are open; called from an app's `ready()`."""
    _checks[kind] = check


def watch_everything() -> int:
    """Open what the checks find, end what they no longer find. Returns how many incidents are open."""
    return sum(reconcile(kind, check()) for kind, check in _checks.items())


def reconcile(kind: str, findings: Iterable[Finding]) -> int:
    """Make the open incidents of a kind those of the findings."""
    found = {(finding.tenant_id, finding.scope): finding for finding in findings}
    for finding in found.values():
        open_incident(
            tenant_id=finding.tenant_id,
            kind=kind,
            scope=finding.scope,
            summary=finding.summary,
            severity=finding.severity,
        )
    for tenant_id, scope in Incident.objects.filter(kind=kind, ended_at=None).values_list(
        "tenant_id", "scope"
    ):
        if (tenant_id, scope) not in found:
            end_incident(tenant_id=tenant_id, kind=kind, scope=scope)
    return len(found)


def poor_success() -> Iterable[Finding]:
    lately = Run.objects.filter(started_at__gt=timezone.now() - LATELY).order_by()
    bad = Sum(F("failed") + F("in_doubt") + F("retried"))
    for queue, good, rows in lately.values_list("queue").annotate(Sum("done"), rows=Sum("done") + bad):
        if rows >= FEWEST_ROWS and good < WORST_SUCCESS * rows:
            share = round(100 * good / rows)
            yield Finding(
                f"queue:{queue}",
                f"{queue}: only {share} % of the last {rows:,} calls succeeded",
            )


def long_queue() -> Iterable[Finding]:
    """Over 10,000 rows wait, and no fewer each time: a broadcast that goes out at its rate is none."""
    for queue in all_queues():
        waiting = get_queue(queue).waiting()
        runs = list(Run.objects.filter(queue=queue, ended_at__isnull=False)[:3])
        growing = len(runs) == 3 and all(run.queue_after >= run.queue_before for run in runs)
        if waiting > LONG_QUEUE and (growing or not runs):
            yield Finding(
                f"queue:{queue}", f"{queue}: {waiting:,} rows wait, and their number is not falling"
            )


def near_allowance() -> Iterable[Finding]:
    used_up = Lane.objects.filter(allowance__gt=0, window_ends_at__gt=timezone.now())
    for lane in used_up.filter(used__gte=F("allowance") * NEAR_ALLOWANCE):
        ends = f"{lane.window_ends_at:%H:%M}"
        summary = f"{lane.name}: {lane.used:,} of {lane.allowance:,} calls used, renewed at {ends} UTC"
        yield Finding(f"lane:{lane.pk}", summary, lane.tenant_id)


def held_lane() -> Iterable[Finding]:
    for lane in Lane.objects.filter(paused_at__isnull=False).exclude(pause_reason="operator"):
        summary = f"{lane.name} is held ({lane.pause_reason}): {lane.last_error}"
        yield Finding(f"lane:{lane.pk}", summary, lane.tenant_id, "critical")


def stale_lane() -> Iterable[Finding]:
    late = timezone.now() - STALE_LANE
    for lane in Lane.objects.filter(holder__isnull=False, leased_until__lt=late):
        yield Finding(
            f"lane:{lane.pk}",
            f"{lane.name} is held by a run that died, and nobody took it over",
            lane.tenant_id,
        )


def silent_cluster() -> Iterable[Finding]:
    late = timezone.now() - SILENT_CLUSTER
    for heart in Heartbeat.objects.filter(beat_at__lt=late):
        summary = f"the {heart.cluster} cluster was last seen at {heart.beat_at:%H:%M} UTC"
        yield Finding(f"cluster:{heart.cluster}", summary, severity="critical")


def unapplied_webhooks() -> Iterable[Finding]:
    given_up = Receipt.objects.filter(applied_at=None, attempts__gte=MOST_ATTEMPTS)
    late = Receipt.objects.filter(applied_at=None, received_at__lt=timezone.now() - LATELY)
    for row in (given_up | late).order_by().values("provider").annotate(n=Count("id")):
        yield Finding(
            f"webhooks:{row['provider']}", f"{row['n']:,} {row['provider']} webhooks could not be applied"
        )


def dead_tokens() -> Iterable[Finding]:
    from tenants.models import ProviderToken

    dead = ~Q(state__in=["active", "throttled"]) | Q(expires_at__lt=timezone.now())
    for token in ProviderToken.objects.filter(dead):
        why = token.state if token.state not in ("active", "throttled") else "expired"
        summary = f"the {token.get_provider_display()} token “{token.label}” is {why}: {token.last_error}"
        yield Finding(f"token:{token.pk}", summary, token.tenant_id, "critical")


for kind, check in {
    "success": poor_success,
    "queue": long_queue,
    "allowance": near_allowance,
    "lane_held": held_lane,
    "lane_stale": stale_lane,
    "cluster_silent": silent_cluster,
    "webhooks": unapplied_webhooks,
    "token": dead_tokens,
}.items():
    register_check(kind, check)
