"""What the minute looks at in messaging, beside what the engine sees by itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from django.db.models import Count, QuerySet
from django.utils.timezone import now

from engine.models import Incident, Lane
from engine.watch.checks import Finding
from engine.watch.incidents import end_incident
from messaging.models import Broadcast, BroadcastStep, Message

DOUBT_LASTS = timedelta(hours=1)
"""Webhooks settle a doubt within seconds; after this long it wants a person."""


def long_in_doubt() -> Iterable[Finding]:
    """Messages whose outcome nobody has told, by broadcast."""
    rows = (
        Message.objects.in_doubt()
        .filter(in_doubt_at__lt=now() - DOUBT_LASTS)
        .order_by()
        .values_list("tenant_id", "broadcast_id", "broadcast__name")
        .annotate(n=Count("id"))
    )
    for tenant_id, broadcast_id, name, n in rows:
        summary = f"“{name}”: {n:,} messages have been in doubt for over an hour: resend them, or mark them"
        yield Finding(f"broadcast:{broadcast_id}", summary, tenant_id)


Ids = Collection[int]
_State, _StepState = Broadcast.State, BroadcastStep.State

TRUE_WHILE: Final[Mapping[str, Callable[[Ids], QuerySet[Any]]]] = {
    # launched, scheduled anew, cancelled or deleted: over
    "broadcast_not_launched": lambda ids: Broadcast.objects.filter(
        pk__in=ids, state=_State.DRAFT
    ).values_list("pk"),
    # resumed, cancelled: over
    "broadcast_paused": lambda ids: _broadcasts(ids, _State.PAUSED),
    # resumed, everything of it out already, its broadcast ended: over
    "step_paused": lambda ids: BroadcastStep.objects.filter(
        pk__in=ids, state=_StepState.PAUSED, broadcast__state__in=[_State.RUNNING, _State.PAUSED]
    ).values_list("pk"),
    # somebody has resumed every lane that the restriction held, or the token is gone: over
    "account_restricted": lambda ids: Lane.objects.filter(
        token_id__in=ids, paused_at__isnull=False, pause_reason=Broadcast.PauseReason.SPAM
    ).values_list("token_id"),
}
"""What messaging opens when it happens, by kind: of the ids that open incidents name, those still so.

An incident's scope ends in the id that it is about, as in `broadcast:17`.
"""


def _broadcasts(ids: Ids, state: str) -> QuerySet[Any]:
    return Broadcast.objects.filter(pk__in=ids, state=state).values_list("pk")


def end_past_incidents() -> int:
    """End the incidents whose cause is gone, whoever has seen to it; returns how many."""
    ended = 0
    for kind, still_true in TRUE_WHILE.items():
        rows = list(Incident.objects.filter(kind=kind, ended_at=None).values_list("tenant_id", "scope"))
        ids = {scope: int(scope.rpartition(":")[2]) for _, scope in rows}
        true = {row[0] for row in still_true(set(ids.values()))} if ids else set()
        for tenant_id, scope in rows:
            if ids[scope] not in true:
                ended += end_incident(tenant_id=tenant_id, kind=kind, scope=scope)
    return ended
