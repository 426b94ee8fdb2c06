"""Flows of which nothing goes out until a person lets them: held by the application, or by a row here."""

from __future__ import annotations

from collections.abc import Collection

import structlog
from django.db import transaction
from django.utils.timezone import now

from engine.models import FlowHold, Incident
from engine.processor.contract import Processor, Request
from engine.store.errors import Trouble, trouble
from engine.watch.incidents import open_incident

logger = structlog.get_logger(__name__)

FAULT = "fault"
"""The reason of a flow that our own code fails for, and the kind of its incident."""


def hold_flow(
    processor: Processor, request: Request, *, reason: str, code: str = "", detail: str = ""
) -> None:
    """Stop a flow, by the application's own state where it has one. Raises for a lost connection only."""
    held = False
    try:
        with transaction.atomic():
            held = processor.hold_flow(request, reason=reason, code=code, detail=detail)
    except Exception as error:
        if trouble(error) in (Trouble.AWAY, Trouble.AGAIN):
            raise
        logger.exception("a flow cannot be held by its application", processor=processor.name)
    if not held:
        FlowHold.objects.update_or_create(
            processor=processor.name,
            flow=request.flow,
            defaults={"tenant_id": request.tenant_id, "reason": reason, "detail": f"{code} {detail}".strip()},
        )
    if reason == FAULT or not held:
        open_incident(
            tenant_id=request.tenant_id,
            kind=FAULT if reason == FAULT else "flow_held",
            scope=scope_of(processor.name, request.flow),
            summary=f"{processor.name} {request.flow} is held ({reason}): {code} {detail}".strip(" :"),
            severity="critical",
        )


def release_flows(*, processor: str, flows: Collection[int]) -> int:
    """Let held flows go on, and end their incidents; returns how many the engine itself had held."""
    released = FlowHold.objects.filter(processor=processor, flow__in=flows).delete()[0]
    scopes = [scope_of(processor, flow) for flow in flows]
    Incident.objects.filter(kind__in=(FAULT, "flow_held"), scope__in=scopes, ended_at=None).update(
        ended_at=now()
    )
    return released


def scope_of(processor: str, flow: int) -> str:
    return f"flow:{processor}:{flow}"
