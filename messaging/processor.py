"""WhatsApp messages: one row a call, never sent twice, stopped at once when a step may not run."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from django.conf import settings
from django.db import connection

from engine.models import Lane
from engine.processor.contract import Item, LaneFacts, Planned, Processor, Settled, Stale
from messaging.actions import advance_broadcast, hold_broadcasts, refuse_after_failures, suppress
from messaging.models import BroadcastStep, Message, MessageTemplate, Suppression
from providers import whatsapp
from providers.base import Failed, Hold, Outcome, Reply, Response, Scope, Throttled
from tenants.secrets import decrypt

FRESH_SECONDS = 5.0
"""How long what is known of a step may be kept between claims."""

State = Message.State
Channel = Suppression.Channel


@dataclass(slots=True, frozen=True)
class StepFacts:
    """What all messages of a step have in common."""

    base_url: str
    template: str
    language: str
    components: tuple[Mapping[str, Any], ...]
    marketing: bool
    phone_number_id: str
    token: str
    version: str


class MessageProcessor(Processor):
    """Send the messages of running broadcasts' running steps, each step a flow of its own."""

    queue = "messaging"
    model = Message
    columns = ("phone", "parameters")
    results = {"wamid": "text", "vendor_status": "text"}
    flow = "step_id"
    runnable = """{flow} IN (
        SELECT s.id FROM messaging_broadcaststep AS s
          JOIN messaging_broadcast AS b ON b.id = s.broadcast_id AND b.state = 'running'
          JOIN messaging_messagetemplate AS t ON t.id = s.template_id AND t.state = 'approved'
         WHERE s.state = 'running')"""
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
        """Load what is not known, and all of it anew after `FRESH_SECONDS`: a token may have a new secret."""
        now = time.monotonic()
        if now - self.steps_from > FRESH_SECONDS:
            self.steps, self.steps_from = {}, now
        if unknown := step_ids - self.steps.keys():
            self.steps = self.steps | _load_steps(unknown)

    def prepare(self, items: Sequence[Item]) -> Mapping[int, tuple[str, str]]:
        """Know the steps, and leave out whoever has been suppressed since the launch."""
        self.load_steps({item.flow for item in items})
        suppressed = _suppressed(items)
        closed = {}
        for item in items:
            channels = suppressed.get((item.tenant_id, item.columns["phone"]), {})
            step = self.steps[item.flow]
            for channel, reason in channels.items():
                if channel != Channel.WHATSAPP_MARKETING or step.marketing:
                    closed[item.id] = (State.SUPPRESSED.value, reason)
        return closed

    def rest(self, response: Response) -> Throttled | None:
        """Stop before the app's call limit does: each reply says how much of it is used."""
        wait = whatsapp.exhausted(response) if isinstance(response, Reply) else None
        return Throttled(wait, Scope.TOKEN, "usage", "the app's call limit is used up") if wait else None

    def attend(self, settled: Sequence[Settled]) -> None:
        """Pause what a hold stops, suppress who opted out, and watch the share of failures."""
        opted_out: dict[int, list[str]] = defaultdict(list)
        failing: set[int] = set()
        held: set[tuple[Scope, int]] = set()
        for item, outcome in settled:
            match outcome:
                case Hold(reason, scope, code, detail):
                    key = (scope, item.flow if scope is Scope.FLOW else item.lane_id)
                    if key not in held:
                        held.add(key)
                        self.hold(item, scope, reason, code, detail)
                case Failed(code):
                    failing.add(item.flow)
                    if whatsapp.is_marketing_opt_out(code):
                        opted_out[item.tenant_id].append(item.columns["phone"])
        for tenant_id, phones in opted_out.items():
            suppress(
                tenant_id=tenant_id,
                phones=phones,
                channel=Channel.WHATSAPP_MARKETING,
                reason="opted out of marketing",
            )
        if failing:
            refuse_after_failures(step_ids=failing)

    def hold(self, item: Item, scope: Scope, reason: str, code: str, detail: str) -> None:
        if scope is Scope.FLOW:
            hold_broadcasts(step_id=item.flow, reason=reason, code=code, detail=detail)
        elif scope is Scope.TOKEN:
            hold_broadcasts(token_id=_token_of(item.lane_id), reason=reason, code=code, detail=detail)
        else:
            hold_broadcasts(lane_ids=[item.lane_id], reason=reason, code=code, detail=detail)

    def drained(self, flows: Sequence[int]) -> None:
        """Move on the broadcasts whose running step has nothing left."""
        broadcasts = BroadcastStep.objects.filter(pk__in=flows).values_list("broadcast_id", flat=True)
        for broadcast_id in sorted(set(broadcasts)):
            advance_broadcast(broadcast_id)

    # -- the pure part ---------------------------------------------------------------------
    def plan(self, lane: LaneFacts, items: Sequence[Item]) -> Sequence[Planned]:
        return [Planned(self.call(item), (item,)) for item in items]

    def call(self, item: Item) -> Any:
        step = self.steps[item.flow]
        return whatsapp.send_template(
            base_url=step.base_url,
            version=step.version,
            phone_number_id=step.phone_number_id,
            token=step.token,
            to=item.columns["phone"],
            template=step.template,
            language=step.language,
            components=_components(step, item.columns["parameters"]),
            attempt=str(item.attempt),
            timeout=settings.SEND_TIMEOUT,
        )

    def interpret(self, planned: Planned, response: Response) -> Iterable[Settled]:
        item = planned.items[0]
        outcome: Outcome = whatsapp.read_send(
            response, attempt_number=item.attempts + 1, secrets=planned.call.secrets
        )
        return ((item, outcome),)


def _components(step: StepFacts, parameters: str | list[str]) -> list[Mapping[str, Any]]:
    """Put the message's own variables into the template's components. `parameters` is JSON as stored."""
    values = orjson.loads(parameters) if isinstance(parameters, str) else parameters
    if not values:
        return list(step.components)
    body = {"type": "body", "parameters": [{"type": "text", "text": text} for text in values]}
    return [*step.components, body]


def _load_steps(step_ids: set[int]) -> dict[int, StepFacts]:
    steps = BroadcastStep.objects.filter(pk__in=step_ids).select_related(
        "template", "broadcast__sender__provider_token"
    )
    return {step.pk: _facts(step) for step in steps}


def _facts(step: BroadcastStep) -> StepFacts:
    sender, template = step.broadcast.sender, step.template
    token = sender.provider_token
    return StepFacts(
        base_url=settings.WHATSAPP_URL,
        template=template.name,
        language=template.language,
        components=tuple(template.components),
        marketing=template.category == MessageTemplate.Category.MARKETING,
        phone_number_id=sender.address,
        token=_opened(token.sealed_secret),
        version=token.config.get("version", whatsapp.DEFAULT_VERSION),
    )


@lru_cache(maxsize=1024)
def _opened(sealed: str) -> str:
    """Open a secret once per process: 40 µs that every batch would pay for every step."""
    return decrypt(sealed)


def _suppressed(items: Sequence[Item]) -> dict[tuple[int, str], dict[str, str]]:
    """{(tenant, phone): {channel: reason}} for those of the items who must not be written to by WhatsApp."""
    found: dict[tuple[int, str], dict[str, str]] = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT s.tenant_id, s.phone, s.channel, s.reason
              FROM unnest(%s::bigint[], %s::text[]) AS item(tenant_id, phone)
              JOIN messaging_suppression AS s ON s.tenant_id = item.tenant_id AND s.phone = item.phone
             WHERE s.channel = ANY(%s)""",
            [
                [item.tenant_id for item in items],
                [item.columns["phone"] for item in items],
                [Channel.ALL.value, Channel.WHATSAPP.value, Channel.WHATSAPP_MARKETING.value],
            ],
        )
        for tenant_id, phone, channel, reason in cursor.fetchall():
            found[tenant_id, phone][channel] = reason
    return found


def _token_of(lane_id: int) -> int:
    return int(Lane.objects.values_list("token_id", flat=True).get(pk=lane_id))
