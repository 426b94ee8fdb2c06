"""Pause a broadcast whose failures say that going on does harm."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from django.db import transaction
from django.db.models import Count, Q, Sum
from django.utils.dateparse import parse_datetime
from django.utils.timezone import now

from messaging.actions.flow import hold_broadcasts, pause_running
from messaging.models import Broadcast, BroadcastStep, Message, MessageTally
from messaging.rules import FAILURE_RULES, WINDOW, FailureRule
from providers.whatsapp import title

Counts = tuple[int, int]
"""Of a step: how many are on their way or there, and how many failed."""


def refuse_after_failures(*, step_ids: Collection[int] | None = None) -> int:
    """Hold running steps, or their broadcasts, against `FAILURE_RULES`; returns how many were stopped.

    Cheap enough for every batch: counts come from the tallies, as changes since the window began (kept in
    `step.watch`), and codes are looked at only when there are failures enough for a rule.
    """
    return sum(judge_step(*counted) for counted in running_steps(step_ids))


def running_steps(step_ids: Collection[int] | None = None) -> list[tuple[BroadcastStep, int, int]]:
    """List the running steps of running broadcasts, each with how many passed and how many failed."""
    steps = BroadcastStep.objects.filter(
        state=BroadcastStep.State.RUNNING, broadcast__state=Broadcast.State.RUNNING
    ).select_related("broadcast")
    if step_ids is not None:
        steps = steps.filter(pk__in=step_ids)
    running = list(steps.order_by("pk"))
    counts = _counts(running)
    return [(step, *counts.get(step.pk, (0, 0))) for step in running]


def begin_windows(steps: Sequence[BroadcastStep]) -> None:
    """Judge these steps by what comes from now on: somebody has decided that they may go on."""
    counts = _counts(steps)
    for step in steps:
        _begin_window(step, *counts.get(step.pk, (0, 0)), shares={})


def judge_step(step: BroadcastStep, passed: int, failed: int) -> int:
    """Hold a running step, or its broadcast, if its counts break a rule; returns 1 if so."""
    watch: dict[str, Any] = step.watch
    new_failed = failed - watch.get("failed", 0)
    # a message that was accepted and failed later is one decision, not two
    decided = max(passed + failed - watch.get("passed", 0) - watch.get("failed", 0), new_failed)
    shares: dict[str, float] = {}
    codes: dict[str, int] = {}
    for rule in FAILURE_RULES:
        if decided < rule.window:
            continue
        counted = new_failed
        if rule.codes is not None and new_failed:
            codes = codes or _failures_by_code(step)
            counted = sum(n for code, n in codes.items() if code in rule.codes)
        shares[rule.name] = share = min(counted / decided, 1.0)
        before = watch.get("shares", {}).get(rule.name, 0.0)
        if share > rule.over and (not rule.rising or share > before):
            return _stop(step, rule, share, decided, codes or _failures_by_code(step))
    if decided >= WINDOW:
        _begin_window(step, passed, failed, shares)
    return 0


def _stop(step: BroadcastStep, rule: FailureRule, share: float, decided: int, codes: dict[str, int]) -> int:
    worst = max(codes, key=lambda code: codes[code], default="")
    why = f"; most often {worst} {title(worst)}".rstrip() if worst else ""
    detail = f"{share:.0%} of the last {decided} messages failed (rule “{rule.name}”){why}"
    if rule.stops_step:
        hold_broadcasts(step_id=step.pk, reason=rule.reason, detail=detail)
        return 1
    with transaction.atomic():
        return pause_running([step.broadcast_id], rule.reason, detail)


def _begin_window(step: BroadcastStep, passed: int, failed: int, shares: dict[str, float]) -> None:
    step.watch = {"passed": passed, "failed": failed, "at": now().isoformat(), "shares": shares}
    step.save(update_fields=["watch"])


def _failures_by_code(step: BroadcastStep) -> dict[str, int]:
    failures = Message.objects.filter(step_id=step.pk, state=Message.State.FAILED)
    if began := parse_datetime(step.watch.get("at", "")):
        failures = failures.filter(failed_at__gte=began)
    rows = failures.order_by().values_list("error_code").annotate(n=Count("pk"))
    return dict(rows)


def _counts(steps: Sequence[BroadcastStep]) -> dict[int, Counts]:
    rows = (
        MessageTally.objects.filter(
            broadcast_id__in={step.broadcast_id for step in steps}, step_id__in=[step.pk for step in steps]
        )
        .order_by()
        .values_list("step_id")
        .annotate(
            passed=Sum("n", filter=Q(state__in=Message.ON_ITS_WAY), default=0),
            failed=Sum("n", filter=Q(state=Message.State.FAILED), default=0),
        )
    )
    return {step_id: (passed, failed) for step_id, passed, failed in rows}
