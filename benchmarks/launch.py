"""Launch of a broadcast: judging, splitting and freezing the audience, at two sizes.

    python -m benchmarks.launch [--contacts N]

The bound is ours: 1,000,000 contacts in 90 s or less, and a cost per contact that does not grow. The
baseline freezes 20,000 of the same with Django's bulk_create, given checked rows, and is flattered by it.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from typing import Any

from benchmarks.harness import say, scratch_database

BOUND_SECONDS_PER_MILLION = 90.0
SMALL = 20_000


def make_draft(contacts: int) -> Any:
    """Write a tenant with so many contacts, every hundredth without a phone, and a draft in two steps."""
    from django.db import connection

    from campaigns.models import Campaign
    from messaging.actions import create_broadcast, create_sender, create_template
    from tenants.models import ProviderToken, Tenant

    tenant = Tenant.objects.create(name=f"{contacts} contacts", slug=f"t{contacts}")
    token = ProviderToken(tenant=tenant, provider="whatsapp", label="bench")
    token.secret = "EAAG-bench"
    token.save()
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO campaigns_contact (tenant_id, external_id, phone, email, name, timezone, attributes,
                                           created_at, updated_at)
            SELECT %s, 'c' || i, CASE WHEN i %% 100 = 0 THEN '' ELSE '+4915' || lpad(i::text, 8, '0') END, '',
                   'Name ' || i, '', jsonb_build_object('city', 'City ' || i %% 50), now(), now()
              FROM generate_series(1, %s) AS i
            """,
            [tenant.pk, contacts],
        )
        cursor.execute("ANALYZE campaigns_contact")
    sender = create_sender(
        tenant_id=tenant.pk, provider_token_id=token.pk, kind="whatsapp", address=f"1{contacts}"
    )
    templates = [
        create_template(
            tenant_id=tenant.pk,
            name=f"t{i}",
            body="Hi {{1}} in {{2}}",
            category="marketing",
            variables=["name", {"from": "attributes.city", "default": "town"}],
        )
        for i in range(2)
    ]
    campaign = Campaign.objects.create(tenant=tenant, name="bench", state="active")
    return create_broadcast(
        tenant_id=tenant.pk,
        campaign_id=campaign.pk,
        sender_id=sender.pk,
        name="bench",
        steps=[{"template": template.pk, "share": 50} for template in templates],
        audience={"all": True},
    )


def launch(contacts: int) -> tuple[float, float]:
    """Return the seconds of a preflight and of the launch, its commit and constraints included."""
    from messaging.actions import launch_broadcast, preflight_broadcast

    draft = make_draft(contacts)
    started = time.perf_counter()
    preflight = preflight_broadcast(broadcast_id=draft.pk)
    looked = time.perf_counter() - started
    started = time.perf_counter()
    launched = launch_broadcast(broadcast_id=draft.pk)
    seconds = time.perf_counter() - started
    assert launched.total == preflight.sendable == contacts - contacts // 100
    return looked, seconds


def bulk_create(contacts: int) -> float:
    """Freeze the small audience once more as it is usually done: read, render, bulk_create."""
    from django.db import transaction

    from campaigns.models import Contact
    from messaging.models import Broadcast, Message

    small = Broadcast.objects.get(tenant__slug=f"t{contacts}")
    Message.objects.filter(broadcast=small).delete()
    first, second = small.steps.order_by("position")
    started = time.perf_counter()
    with transaction.atomic():
        Message.objects.bulk_create(
            (
                Message(
                    tenant_id=small.tenant_id,
                    lane_id=small.sender.lane_id,
                    broadcast=small,
                    step=first if contact.pk % 2 else second,
                    contact=contact,
                    phone=contact.phone,
                    parameters=[contact.name, contact.attributes.get("city") or "town"],
                )
                for contact in Contact.objects.filter(tenant_id=small.tenant_id).exclude(phone="")
            ),
            batch_size=1000,
        )
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--contacts", type=int, default=1_000_000)
    options = parser.parse_args()
    with scratch_database("launch"):
        from tenants.scope import all_tenants

        with all_tenants():
            launch(1_000)  # caches and connections
            _, small = launch(SMALL)
            usual = bulk_create(SMALL)
            looked, seconds = launch(options.contacts)
    bound = BOUND_SECONDS_PER_MILLION * max(options.contacts / 1_000_000, 0.1)
    return say(
        "launch",
        passed=seconds <= bound,
        contacts=options.contacts,
        seconds=round(seconds, 2),
        bound_seconds=round(bound, 1),
        preflight_seconds=round(looked, 2),
        contacts_per_second=round(options.contacts / seconds),
        contacts_per_second_small=round(SMALL / small),
        baseline_bulk_create_per_second=round(SMALL / usual),
        peak_memory_mb=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    )


if __name__ == "__main__":
    sys.exit(main())
