"""What the minute looks at: each check says what is wrong now, and what it no longer says is over.

So an incident of a kind that is checked here ends by the same measurement that opened it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog
from django.db import DatabaseError, connection, transaction
from django.db.models import Count, F, Q, Sum
from django.utils import timezone

from engine.inbox.receipts import MOST_ATTEMPTS
from engine.models import Allowance, FlowHold, Incident, Lane, Receipt, Run
from engine.processor.registry import all_queues
from engine.store.holds import FAULT, scope_of
from engine.store.spent import spent
from engine.watch.depth import depth_of
from engine.watch.guard import guarded
from engine.watch.heartbeats import silent_clusters
from engine.watch.incidents import MORE, Severity, end_incident, end_overflow, open_incident

logger = structlog.get_logger(__name__)

LATELY = timedelta(minutes=10)
FEWEST_ROWS = 50
WORST_SUCCESS = 0.8
LONG_QUEUE = 10_000
NEAR_ALLOWANCE = 0.8
STALE_LANE = timedelta(minutes=3)
GIVEN_UP_LASTS = timedelta(days=1)
"""Webhooks that were given up on are an incident for this long; they are kept for longer."""


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
    """Open what the checks find, end what they no longer find. Returns how many things were found.

    Each check has a transaction of its own. One that raises opens and ends nothing of its kind, is an
    incident itself, and keeps none of the others from running.
    """
    found = 0
    for kind, check in list(_checks.items()):
        found += guarded(f"check:{kind}", partial(_run_check, kind, check)) or 0
    guarded("overflow", end_overflow)
    return found


def _run_check(kind: str, check: Check) -> int:
    return reconcile(kind, check())


def reconcile(kind: str, findings: Iterable[Finding]) -> int:
    """Make the open incidents of a kind those of the findings. Returns how many there are.

    A finding that the database refuses, e.g. of a tenant deleted meanwhile, is logged and stops no other.
    """
    found = {(finding.tenant_id, finding.scope): finding for finding in findings}
    opened = Incident.objects.filter(kind=kind, ended_at=None).exclude(scope=MORE)
    for tenant_id, scope in opened.values_list("tenant_id", "scope"):
        if (tenant_id, scope) not in found:
            end_incident(tenant_id=tenant_id, kind=kind, scope=scope)
    for finding in found.values():
        try:
            with transaction.atomic():
                open_incident(
                    tenant_id=finding.tenant_id,
                    kind=kind,
                    scope=finding.scope,
                    summary=finding.summary,
                    severity=finding.severity,
                )
                _check_constraints_now()
        except DatabaseError:
            logger.exception("an incident cannot be written", kind=kind, scope=finding.scope)
    return len(found)


def _check_constraints_now() -> None:
    """Let the reference to the tenant, which is checked at commit, fail here and for this finding alone."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")


def poor_success() -> Iterable[Finding]:
    """Under 80 % of the calls of the last ten minutes succeeded.

    A call that wants another one to go on has worked as well, and a run counts an honest "not found" as done.
    """
    lately = Run.objects.filter(started_at__gt=timezone.now() - LATELY).order_by()
    by_processor = lately.values_list("queue", "processor").annotate(
        good=Sum(F("done") + F("continued")),
        rows=Sum(F("done") + F("continued") + F("failed") + F("in_doubt") + F("retried")),
    )
    for queue, processor, good, rows in by_processor:
        if rows >= FEWEST_ROWS and good < WORST_SUCCESS * rows:
            name = queue if processor in ("", queue) else f"{queue}, {processor}"
            share = round(100 * good / rows)
            yield Finding(
                f"queue:{queue}" if processor in ("", queue) else f"queue:{queue}/{processor}",
                f"{name}: only {share} % of the last {rows:,} calls succeeded",
            )


def long_queue() -> Iterable[Finding]:
    """Over 10,000 rows are due, and no fewer each time: a broadcast that goes out at its rate is none."""
    for queue in all_queues():
        waiting = depth_of(queue, most=LONG_QUEUE + 1).waiting
        runs = list(Run.objects.filter(queue=queue, ended_at__isnull=False)[:3])
        growing = len(runs) == 3 and all(run.queue_after >= run.queue_before for run in runs)
        if waiting > LONG_QUEUE and (growing or not runs):
            summary = f"{queue}: over {LONG_QUEUE:,} rows are due, and their number is not falling"
            yield Finding(f"queue:{queue}", summary)


def near_allowance() -> Iterable[Finding]:
    """Over 80 % of an allowance is spent in the window that ends now, or in the vendor's day or month."""
    allowances = list(Allowance.objects.filter(limit__gt=0).select_related("token"))
    use = spent([allowance.pk for allowance in allowances])
    for allowance in allowances:
        used = use[allowance.pk].used if allowance.pk in use else 0  # deleted meanwhile
        if used >= allowance.limit * NEAR_ALLOWANCE:
            summary = (
                f"{allowance.token.label}: {used:,} of {allowance.limit:,} {allowance.unit} used in "
                f"{allowance.get_window_display()}"
            )
            yield Finding(f"allowance:{allowance.pk}", summary, allowance.tenant_id)


def held_lane() -> Iterable[Finding]:
    """Lanes that were stopped by what a vendor said, and not by a person."""
    held = Lane.objects.filter(paused_at__isnull=False, token__retired_at=None)
    for lane in held.exclude(pause_reason="operator"):
        summary = f"{lane.name} is held ({lane.pause_reason}): {lane.last_error}"
        yield Finding(f"lane:{lane.pk}", summary, lane.tenant_id, "critical")


def held_flow() -> Iterable[Finding]:
    """Flows held by the engine for a reason of the vendor's. One that fails for our own code is a `fault`."""
    for hold in FlowHold.objects.exclude(reason=FAULT):
        summary = f"{hold.processor} {hold.flow} is held ({hold.reason}): {hold.detail}"
        yield Finding(scope_of(hold.processor, hold.flow), summary, hold.tenant_id, "critical")


def stale_lane() -> Iterable[Finding]:
    late = timezone.now() - STALE_LANE
    for lane in Lane.objects.filter(holder__isnull=False, leased_until__lt=late):
        yield Finding(
            f"lane:{lane.pk}",
            f"{lane.name} is held by a run that died, and nobody took it over",
            lane.tenant_id,
        )


def silent_cluster() -> Iterable[Finding]:
    for heart in silent_clusters():
        summary = f"the {heart.cluster} cluster was last seen at {heart.beat_at:%H:%M} UTC"
        yield Finding(f"cluster:{heart.cluster}", summary, severity="critical")


def unapplied_webhooks() -> Iterable[Finding]:
    """Webhooks that were given up on within the last day, or that have waited for ten minutes."""
    now = timezone.now()
    given_up = Q(attempts__gte=MOST_ATTEMPTS, due_at__gt=now - GIVEN_UP_LASTS)
    late = Q(attempts__lt=MOST_ATTEMPTS, received_at__lt=now - LATELY)
    unapplied = Receipt.objects.filter(given_up | late, applied_at=None).order_by()
    for provider, tenant_id, n in unapplied.values_list("provider", "tenant_id").annotate(Count("id")):
        yield Finding(f"webhooks:{provider}", f"{n:,} {provider} webhooks could not be applied", tenant_id)


def dead_tokens() -> Iterable[Finding]:
    from tenants.models import ProviderToken

    dead = ~Q(state__in=["active", "throttled"]) | Q(expires_at__lt=timezone.now())
    for token in ProviderToken.objects.filter(dead, retired_at=None):
        why = token.state if token.state not in ("active", "throttled") else "expired"
        summary = f"the {token.get_provider_display()} token “{token.label}” is {why}: {token.last_error}"
        yield Finding(f"token:{token.pk}", summary, token.tenant_id, "critical")


for kind, check in {
    "success": poor_success,
    "queue": long_queue,
    "allowance": near_allowance,
    "lane_held": held_lane,
    "lane_stale": stale_lane,
    "flow_held": held_flow,
    "cluster_silent": silent_cluster,
    "webhooks": unapplied_webhooks,
    "token": dead_tokens,
}.items():
    register_check(kind, check)
