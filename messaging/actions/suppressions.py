"""People who must not be written to."""

from __future__ import annotations

from collections.abc import Collection

from django.db import transaction

from campaigns.models import Contact
from messaging.models import Suppression
from tenants.errors import ActionRefused


@transaction.atomic
def suppress(
    *,
    tenant_id: int,
    phones: Collection[str] = (),
    contact_ids: Collection[int] = (),
    channel: str = Suppression.Channel.ALL,
    reason: str,
) -> int:
    """Keep these phones, and these contacts' phones, from being written to; returns how many are new.

    Counts for broadcasts that run already: it is checked again as each message leaves.
    """
    if channel not in Suppression.Channel.values:
        raise ActionRefused(
            f"“{channel}” is not one of {', '.join(Suppression.Channel.values)}.", field="channel"
        )
    owners = dict(
        Contact.objects.filter(tenant_id=tenant_id, pk__in=contact_ids)
        .exclude(phone="")
        .values_list("phone", "pk")
    )
    if contact_ids and not owners:
        raise ActionRefused("No such contact has a phone.", field="contact")
    wanted = sorted({*phones, *owners})
    before = Suppression.objects.filter(tenant_id=tenant_id, channel=channel, phone__in=wanted).count()
    Suppression.objects.bulk_create(
        [
            Suppression(
                tenant_id=tenant_id,
                phone=phone,
                channel=channel,
                reason=reason[:200],
                contact_id=owners.get(phone),
            )
            for phone in wanted
        ],
        ignore_conflicts=True,
        batch_size=1000,
    )
    return len(wanted) - before
