"""WhatsApp messages: one row, one call, never sent twice, stopped at once when a step may not run."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from django.conf import settings
from django.db import connection

from engine.models import Lane
from engine.processor import (
    Call,
    Done,
    Failed,
    Hold,
    LaneFacts,
    Outcome,
    Processor,
    Reply,
    Request,
    Response,
    Scope,
    Settled,
    Stale,
    Usage,
)
from messaging.actions import advance_broadcast, hold_broadcasts, refuse_after_failures, suppress
from messaging.models import BroadcastStep, Message, MessageTemplate, Suppression
from messaging.querysets import RUNNABLE
from providers import whatsapp

KEPT_SECONDS = 60.0
"""How long what is known of a step is kept: so that a process does not remember every step it ever sent."""

State = Message.State
Channel = Suppression.Channel


@dataclass(slots=True, frozen=True)
class StepFacts:
    """What all messages of a step have in common, as it was frozen at launch."""

    template: str
    language: str
    components: tuple[Mapping[str, Any], ...]
    marketing: bool


class MessageProcessor(Processor):
    """Send the messages of running broadcasts' running steps, each step a flow of its own."""

    name = "messages"
    queue = "messaging"
    model = Message
    columns = ("phone", "parameters")
    results = {"wamid": "text", "vendor_status": "text"}
    flow = "step_id"
    runnable = RUNNABLE
    stale = Stale.IN_DOUBT
    done_state = State.ACCEPTED.value
    failed_state = State.FAILED.value
    done_stamp = "accepted_at"
    failed_stamp = "failed_at"

    def __init__(self) -> None:
        self.steps: dict[int, StepFacts] = {}
        self.steps_from = 0.0

    # -- the database's part ---------------------------------------------------------------
    def load_steps(self, step_ids: set[int]) -> None:
        """Load what is not known; what a launch froze does not change, and is forgotten now and then."""
        now = time.monotonic()
        if now - self.steps_from > KEPT_SECONDS:
            self.steps, self.steps_from = {}, now
        if unknown := step_ids - self.steps.keys():
            self.steps = self.steps | _load_steps(unknown)

    def prepare(self, requests: Sequence[Request]) -> Mapping[int, Outcome]:
        """Know the steps, and leave out whoever has been suppressed since the launch."""
        self.load_steps({request.flow for request in requests})
        suppressed = _suppressed(requests)
        closed: dict[int, Outcome] = {}
        for request in requests:
            channels = suppressed.get((request.tenant_id, request.columns["phone"]), {})
            step = self.steps[request.flow]
            for channel, reason in channels.items():
                if channel != Channel.WHATSAPP_MARKETING or step.marketing:
                    closed[request.id] = Done(state=State.SUPPRESSED.value, detail=reason)
        return closed

    def learn(self, settled: Sequence[Settled]) -> int:
        """Pause what a hold stops, suppress who opted out, and watch the share of failures."""
        opted_out: dict[int, list[str]] = defaultdict(list)
        failing: set[int] = set()
        held: set[tuple[Scope, int]] = set()
        for request, outcome in settled:
            match outcome:
                case Hold(reason, scope, code, detail) if scope is not Scope.FLOW:
                    if (scope, request.lane_id) not in held:
                        held.add((scope, request.lane_id))
                        self.hold_lane(request, scope, reason, code, detail)
                case Failed(code):
                    failing.add(request.flow)
                    if whatsapp.is_marketing_opt_out(code):
                        opted_out[request.tenant_id].append(request.columns["phone"])
        for tenant_id, phones in opted_out.items():
            suppress(
                tenant_id=tenant_id,
                phones=phones,
                channel=Channel.WHATSAPP_MARKETING,
                reason="opted out of marketing",
            )
        if failing:
            refuse_after_failures(step_ids=failing)
        return 0

    def hold_lane(self, request: Request, scope: Scope, reason: str, code: str, detail: str) -> None:
        """Pause the broadcasts of a number, or of every number on its token."""
        if scope is Scope.TOKEN:
            hold_broadcasts(token_id=_token_of(request.lane_id), reason=reason, code=code, detail=detail)
        else:
            hold_broadcasts(lane_ids=[request.lane_id], reason=reason, code=code, detail=detail)

    def hold_flow(self, request: Request, *, reason: str, code: str, detail: str) -> bool:
        hold_broadcasts(step_id=request.flow, reason=reason, code=code, detail=detail)
        return True

    def drained(self, flows: Sequence[int]) -> None:
        """Move on the broadcasts whose running step has nothing left."""
        broadcasts = BroadcastStep.objects.filter(pk__in=flows).values_list("broadcast_id", flat=True)
        for broadcast_id in sorted(set(broadcasts)):
            advance_broadcast(broadcast_id)

    # -- the pure part ---------------------------------------------------------------------
    def plan(self, lane: LaneFacts, request: Request) -> Call:
        step = self.steps[request.flow]
        return whatsapp.send_template(
            base_url=lane.base_url,
            version=lane.version,
            phone_number_id=lane.name,
            token=lane.secret,
            to=request.columns["phone"],
            template=step.template,
            language=step.language,
            components=_components(step, request.columns["parameters"]),
            attempt=str(request.attempt),
            timeout=settings.SEND_TIMEOUT,
        )

    def interpret(self, lane: LaneFacts, request: Request, response: Response) -> Outcome:
        return whatsapp.read_send(response, attempt_number=request.attempts + 1, secrets=(lane.secret,))

    def usage(self, reply: Reply) -> Usage | None:
        """Stop before the app's call limit does: each reply says how much of it is used."""
        wait = whatsapp.exhausted(reply)
        return Usage("calls", share=1.0, regain_after=wait) if wait else None


def _components(step: StepFacts, parameters: str | list[str]) -> list[Mapping[str, Any]]:
    """Put the message's own variables into the template's components. `parameters` is JSON as stored."""
    values = orjson.loads(parameters) if isinstance(parameters, str) else parameters
    if not values:
        return list(step.components)
    body = {"type": "body", "parameters": [{"type": "text", "text": text} for text in values]}
    return [*step.components, body]


def _load_steps(step_ids: set[int]) -> dict[int, StepFacts]:
    steps = BroadcastStep.objects.filter(pk__in=step_ids).values_list("pk", "frozen")
    return {step_id: _facts(frozen) for step_id, frozen in steps}


def _facts(frozen: Mapping[str, Any]) -> StepFacts:
    return StepFacts(
        template=frozen["name"],
        language=frozen["language"],
        components=tuple(frozen["components"]),
        marketing=frozen["category"] == MessageTemplate.Category.MARKETING,
    )


def _suppressed(requests: Sequence[Request]) -> dict[tuple[int, str], dict[str, str]]:
    """{(tenant, phone): {channel: reason}} for those who must not be written to by WhatsApp."""
    found: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT s.tenant_id, s.phone, s.channel, s.reason
              FROM unnest(%s::bigint[], %s::text[]) AS wanted(tenant_id, phone)
              JOIN messaging_suppression AS s ON s.tenant_id = wanted.tenant_id AND s.phone = wanted.phone
             WHERE s.channel = ANY(%s)""",
            [
                [request.tenant_id for request in requests],
                [request.columns["phone"] for request in requests],
                [Channel.ALL.value, Channel.WHATSAPP.value, Channel.WHATSAPP_MARKETING.value],
            ],
        )
        for tenant_id, phone, channel, reason in cursor.fetchall():
            found[tenant_id, phone][channel] = reason
    return found


def _token_of(lane_id: int) -> int:
    return int(Lane.objects.values_list("token_id", flat=True).get(pk=lane_id))
