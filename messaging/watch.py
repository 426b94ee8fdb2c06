"""What the minute looks at in messaging, beside what the engine sees by itself."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from django.db.models import Count
from django.utils.timezone import now

from engine.watch.checks import Finding
from messaging.models import Message

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
