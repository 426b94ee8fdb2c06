"""Addresses that messages leave from, each with the lane that paces it."""

from __future__ import annotations

from django.db import IntegrityError, transaction

from engine.models import Lane
from messaging.models import Broadcast, Sender
from tenants.errors import ActionRefused
from tenants.models import ProviderToken

QUEUE = "messaging"
PROVIDERS = {Sender.Kind.WHATSAPP: "whatsapp", Sender.Kind.SMS: "lime"}
SENDER_FIELDS = frozenset({"label", "display_number", "rate_per_second", "in_doubt_minutes"})
LOWEST_RATE, HIGHEST_RATE = 0.001, 1_000_000
DOUBT_MINUTES = range(5, 7 * 24 * 60 + 1)


@transaction.atomic
def create_sender(
    *,
    tenant_id: int,
    provider_token_id: int,
    kind: str,
    address: str,
    rate_per_second: float = 80,
    label: str = "",
    display_number: str = "",
    in_doubt_minutes: int | None = None,
) -> Sender:
    """Add an address and its lane. Refused when anybody, of whatever tenant, has it already."""
    token = ProviderToken.objects.filter(pk=provider_token_id, tenant_id=tenant_id).first()
    if token is None:
        raise ActionRefused(f"There is no provider token {provider_token_id}.", field="provider_token")
    if kind not in PROVIDERS:
        raise ActionRefused(f"“{kind}” is no kind of sender.", field="kind")
    needed = PROVIDERS[Sender.Kind(kind)]
    if token.provider != needed:
        raise ActionRefused(
            f"A {kind} sender needs a {needed} token; this one is for {token.provider}.",
            field="provider_token",
        )
    address = address.strip()
    if not address:
        raise ActionRefused("A sender needs an address.", field="address")
    _check_rate(rate_per_second)
    _check_doubt(in_doubt_minutes)
    try:
        with transaction.atomic():
            lane = Lane.objects.create(
                tenant_id=tenant_id,
                queue=QUEUE,
                processor="messages",
                name=address if kind == Sender.Kind.WHATSAPP else f"{kind}:{address}",
                token=token,
                rate_per_second=rate_per_second,
            )
            sender: Sender = Sender.objects.create(
                tenant_id=tenant_id,
                provider_token=token,
                kind=kind,
                address=address,
                label=label,
                display_number=display_number,
                rate_per_second=rate_per_second,
                in_doubt_minutes=in_doubt_minutes,
                lane=lane,
            )
            return sender
    except IntegrityError as error:
        if "lane_once" in str(error) or "sender_address_once" in str(error):
            raise ActionRefused(
                f"The {kind} address {address} is in use: an address belongs to one sender of one tenant.",
                field="address",
            ) from None
        raise


@transaction.atomic
def update_sender(*, sender_id: int, **changes: object) -> Sender:
    """Change a sender's label, number as shown, rate (the lane follows within a second) or end of doubt."""
    if unknown := changes.keys() - SENDER_FIELDS:
        raise ActionRefused(
            f"A sender's {', '.join(sorted(unknown))} cannot be changed: make another sender.",
            field=min(unknown),
        )
    sender: Sender | None = Sender.objects.select_for_update(no_key=True).filter(pk=sender_id).first()
    if sender is None:
        raise ActionRefused(f"There is no sender {sender_id}.")
    for name, value in changes.items():
        setattr(sender, name, value)
    _check_doubt(sender.in_doubt_minutes)
    if "rate_per_second" in changes:
        _check_rate(sender.rate_per_second)
        # what throttling had cut the old rate to says nothing about the new one
        Lane.objects.filter(pk=sender.lane_id).update(
            rate_per_second=sender.rate_per_second, rate_now=None, refused_rate=None, paced_until=None
        )
    if changes:
        sender.save(update_fields=list(changes))
    return sender


@transaction.atomic
def delete_sender(*, sender_id: int) -> None:
    """Remove a sender that no broadcast has used, and its lane."""
    sender: Sender | None = Sender.objects.select_for_update().filter(pk=sender_id).first()
    if sender is None:
        raise ActionRefused(f"There is no sender {sender_id}.")
    if Broadcast.objects.filter(sender_id=sender_id).exists():
        raise ActionRefused(f"Sender {sender} has broadcasts, which stay on record.")
    lane_id = sender.lane_id
    sender.delete()
    Lane.objects.filter(pk=lane_id).delete()


def _check_rate(rate: float) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise ActionRefused(
            f"The rate must be {LOWEST_RATE} to {HIGHEST_RATE:,} messages a second.", field="rate_per_second"
        )


def _check_doubt(minutes: int | None) -> None:
    if minutes is not None and minutes not in DOUBT_MINUTES:
        raise ActionRefused(
            f"Write {DOUBT_MINUTES[0]} to {DOUBT_MINUTES[-1]:,} minutes, after which a message in doubt is "
            "sent again, or leave it empty: a person decides.",
            field="in_doubt_minutes",
        )
