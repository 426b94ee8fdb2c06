"""What messaging's tests are made of: a tenant with a sender, templates, contacts and broadcasts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

from django.db import connection

from campaigns.models import Campaign
from engine.inbox.receipts import Received
from messaging import statuses
from messaging.actions import create_broadcast, create_sender, create_template
from messaging.models import Broadcast, BroadcastStep, Message, MessageTemplate, Sender
from tenants.models import ProviderToken, Tenant, VendorAccount

_number = count(1)


def make_token(tenant: Tenant, provider: str = "whatsapp", **fields: Any) -> ProviderToken:
    token = ProviderToken(tenant=tenant, provider=provider, label=f"token {next(_number)}", **fields)
    token.secret = "EAAG-secret"
    token.save()
    return token


def make_sender(tenant: Tenant, *, token: ProviderToken | None = None, rate: float = 80) -> Sender:
    if token is None:
        token = make_token(tenant, config={"waba_id": f"waba-{tenant.slug}"})
        VendorAccount.objects.get_or_create(
            provider="whatsapp", account_id=f"waba-{tenant.slug}", defaults={"tenant": tenant}
        )
    return create_sender(
        tenant_id=tenant.pk,
        provider_token_id=token.pk,
        kind="whatsapp",
        address=f"1050000{next(_number):04}",
        rate_per_second=rate,
    )


def make_template(tenant: Tenant, **fields: Any) -> MessageTemplate:
    fields = {"name": f"template_{next(_number)}", "body": "Hello", "category": "utility", **fields}
    return create_template(tenant_id=tenant.pk, **fields)


def make_contacts(tenant: Tenant, n: int, *, area: str = "+4915", prefix: str = "c") -> None:
    """Write n contacts named `c1` …, each with its own phone, with one statement."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO campaigns_contact (tenant_id, external_id, phone, email, name, timezone, attributes,
                                           created_at, updated_at)
            SELECT %s, %s || i, %s || lpad(i::text, 8, '0'), '', 'Name ' || i, '',
                   jsonb_build_object('city', 'City ' || i %% 7), now(), now()
              FROM generate_series(1, %s) AS i
            """,
            [tenant.pk, prefix, area, n],
        )


def make_broadcast(
    tenant: Tenant,
    *templates: MessageTemplate,
    sender: Sender | None = None,
    shares: tuple[int, ...] = (100,),
    audience: dict[str, Any] | None = None,
    **fields: Any,
) -> Broadcast:
    templates = templates or (make_template(tenant),)
    campaign = Campaign.objects.create(tenant=tenant, name=f"campaign {next(_number)}", state="active")
    return create_broadcast(
        tenant_id=tenant.pk,
        campaign_id=campaign.pk,
        sender_id=(sender or make_sender(tenant)).pk,
        name=f"broadcast {next(_number)}",
        steps=[
            {"template": template.pk, "share": share}
            for template, share in zip(templates, shares, strict=True)
        ],
        audience=audience or {"all": True},
        **fields,
    )


def states(broadcast: Broadcast) -> dict[str, int]:
    """Count a broadcast's messages by state, from the messages themselves."""
    found: dict[str, int] = {}
    for state in Message.objects.filter(broadcast=broadcast).values_list("state", flat=True):
        found[state] = found.get(state, 0) + 1
    return found


def step_states(broadcast: Broadcast) -> list[str]:
    return [step.state for step in BroadcastStep.objects.filter(broadcast=broadcast).order_by("position")]


def settle(broadcast: Broadcast, state: str, n: int | None = None, position: int = 1, **fields: Any) -> int:
    """Let n queued messages of a step end in `state`, as the runner would."""
    rows = Message.objects.filter(
        broadcast=broadcast, step__position=position, state=Message.State.QUEUED
    ).order_by("pk")
    ids = list(rows.values_list("pk", flat=True)[:n])
    return Message.objects.filter(pk__in=ids).update(state=state, **fields)


def apply_whatsapp(bodies: Sequence[bytes], *, signer: Tenant | None = None) -> int:
    """Apply webhooks as the events queue does: signed by the platform's app, or by a tenant's own."""
    return statuses.apply_whatsapp([Received(body, signer and signer.pk) for body in bodies])
