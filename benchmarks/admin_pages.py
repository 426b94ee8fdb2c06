"""S12: every list and change page of the admin at 1,000,000 rows in its table, in 300 ms or less.

    python -m benchmarks.admin_pages [ROWS]

Each page is asked for first at 10,000 rows, in the same process and database, as the baseline: what a page
costs must not grow with history. Time is the whole request, middleware and template included.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.harness import say, scratch_database

BOUND_MS = 300
BASELINE_ROWS = 10_000
REPEATS = 7

SPREAD = """
    CASE WHEN i %% 200000 = 7 THEN 'in_doubt' WHEN i %% 100 = 3 THEN 'failed'
         WHEN i %% 300 = 5 THEN 'suppressed' WHEN i %% 50 = 1 THEN 'queued'
         WHEN i %% 3 = 0 THEN 'read' ELSE 'delivered' END
"""
"""Most are read or delivered, few failed, hardly any in doubt, none cancelled: a filter's best and worst."""

FILL = [
    """
    INSERT INTO campaigns_contact
           (id, tenant_id, external_id, phone, email, name, timezone, attributes, created_at, updated_at)
    SELECT i, %(tenant)s, 'c' || i, '+4915' || lpad(i::text, 8, '0'), '', 'Name ' || i, '', '{}', now(), now()
      FROM generate_series(%(from)s, %(to)s) i
    """,
    f"""
    INSERT INTO messaging_message
           (id, tenant_id, lane_id, broadcast_id, step_id, contact_id, phone, parameters, state, wamid,
            due_at, attempts, error_code, error_detail, vendor_status, created_at)
    SELECT i, %(tenant)s, %(lane)s, %(broadcast)s, %(step)s, i, '+4915' || lpad(i::text, 8, '0'), '[]',
           {SPREAD}, 'wamid.' || i, now(), 1, '', '', '', now()
      FROM generate_series(%(from)s, %(to)s) i
    """,
    """
    INSERT INTO engine_run
           (queue, processor, state, process, lanes, started_at, beat_at, ended_at, claimed, done, continued,
            retried, throttled, failed, in_doubt, held, given_back, overtaken, calls, facts, decided,
            batch_size, queue_before, queue_after, error)
    SELECT 'messaging', 'messages', CASE WHEN i %% 5000 = 0 THEN 'failed' ELSE 'done' END, 'bench:1', 1,
           now(), now(), now(), 10, 10, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 100, 10, 0, ''
      FROM generate_series(%(from)s, %(to)s) i
    """,
    """
    INSERT INTO engine_receipt (provider, body, size, received_at, applied_at, due_at, attempts, error)
    SELECT 'whatsapp', '{}', 2, now(), now(), now(), 1, '' FROM generate_series(%(from)s, %(to)s) i
    """,
    """
    INSERT INTO engine_incident (tenant_id, kind, scope, severity, summary, opened_at, seen_at, ended_at)
    SELECT %(tenant)s, 'bench', 'lane:' || i, 'warning', 'It was so', now(), now(), now()
      FROM generate_series(%(from)s, %(to)s) i
    """,
]


def fill(ids: dict[str, int], first: int, last: int) -> None:
    """Write rows `first` to `last` of every big table, 100,000 at a time."""
    from django.db import connection, transaction

    from tenants.scope import all_tenants

    for start in range(first, last + 1, 100_000):
        span = {"from": start, "to": min(last, start + 99_999)}
        with transaction.atomic(), all_tenants(), connection.cursor() as cursor:
            for statement in FILL:
                cursor.execute(statement, ids | span)
    with all_tenants(), connection.cursor() as cursor:
        cursor.execute("ANALYZE")


def stage() -> tuple[dict[str, int], dict[str, Any]]:
    """Make what the rows hang on, and the people who look: our own staff and a member."""
    from django.contrib.auth.models import User
    from django.utils.timezone import now

    from campaigns.models import Campaign
    from engine.models import Lane
    from messaging.models import Broadcast, BroadcastStep, MessageTemplate, Sender
    from tenants.models import Membership, ProviderToken, Tenant
    from tenants.scope import all_tenants

    with all_tenants():
        tenant = Tenant.objects.create(name="Big", slug="big")
        token = ProviderToken(tenant=tenant, provider="whatsapp", label="main")
        token.secret = "bench"
        token.save()
        lane = Lane.objects.create(tenant=tenant, queue="messaging", name="1", token=token)
        sender = Sender.objects.create(
            tenant=tenant, provider_token=token, kind="whatsapp", address="1", lane=lane
        )
        campaign = Campaign.objects.create(tenant=tenant, name="c")
        template = MessageTemplate.objects.create(tenant=tenant, name="t", body="Hello")
        broadcast = Broadcast.objects.create(
            tenant=tenant,
            campaign=campaign,
            sender=sender,
            name="b",
            audience={"all": True},
            state="running",
            launched_at=now(),
        )
        step = BroadcastStep.objects.create(
            tenant=tenant, broadcast=broadcast, position=1, template=template, share=100, state="running"
        )
        staff = User.objects.create_superuser("staff")
        member = User.objects.create_user("member", is_staff=True)
        Membership.objects.create(tenant=tenant, user=member, role="owner")
    ids = {"tenant": tenant.pk, "lane": lane.pk, "broadcast": broadcast.pk, "step": step.pk}
    return ids, {"staff": staff, "member": member}


def pages(ids: dict[str, int]) -> list[tuple[str, str]]:
    """Name every page to ask for: (who, address)."""
    b = ids["broadcast"]
    message, contact = "/admin/messaging/message/", "/admin/campaigns/contact/"
    everybody = [
        "/admin/",
        "/admin/live/",
        message,
        f"{message}?p=100",
        f"{message}5000/change/",
        *(f"{message}?state__exact={s}" for s in ("read", "failed", "queued", "in_doubt", "cancelled")),
        f"{message}?broadcast__id__exact={b}",
        f"{message}?broadcast__id__exact={b}&state__exact=failed",
        f"{message}?broadcast__id__exact={b}&state__exact=cancelled",
        f"{message}?q=%2B491500005000",
        f"{message}?q=wamid.5000",
        "/admin/messaging/broadcast/",
        f"/admin/messaging/broadcast/{b}/change/",
        f"/admin/messaging/broadcast/{b}/progress/",
        "/admin/engine/lane/",
        f"/admin/engine/lane/{ids['lane']}/change/",
        "/admin/engine/incident/",
        "/admin/engine/incident/?state=open",
        contact,
        f"{contact}?p=100",
        f"{contact}5000/change/",
        f"{contact}?q=%2B491500005000",
        f"{contact}?q=c5000",
    ]
    platform = [
        "/admin/engine/run/",
        "/admin/engine/run/?state__exact=failed",
        "/admin/engine/run/?state__exact=lost",
        "/admin/engine/run/?queue=events",
        "/admin/engine/receipt/",
        "/admin/engine/receipt/?state=waiting",
        "/admin/engine/receipt/?state=applied",
        "/admin/engine/receipt/?state=error",
        f"{message}?tenant={ids['tenant']}",
    ]
    return [("member", p) for p in everybody] + [("staff", p) for p in [*everybody, *platform]]


def measure(people: dict[str, Any], ids: dict[str, int]) -> dict[tuple[str, str], tuple[float, int]]:
    """Ask for each page; returns the best time in ms, which is the page's own, and the number of queries."""
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    found = {}
    for who, address in pages(ids):
        client = Client(SERVER_NAME="localhost")
        client.force_login(people[who])
        assert client.get(address).status_code == 200, (who, address)
        times = []
        for _ in range(REPEATS):
            began = time.perf_counter()
            client.get(address)
            times.append(1000 * (time.perf_counter() - began))
        with CaptureQueriesContext(connection) as asked:
            client.get(address)
        found[who, address] = (min(times), len(asked))
    return found


def main(rows: int) -> int:
    with scratch_database("admin_pages"):
        import logging

        logging.disable(logging.CRITICAL)
        ids, people = stage()
        fill(ids, 1, BASELINE_ROWS)
        before = measure(people, ids)
        fill(ids, BASELINE_ROWS + 1, rows)
        after = measure(people, ids)
    over = 0
    for page, (ms, queries) in after.items():
        who, address = page
        held = ms <= BOUND_MS and queries == before[page][1]
        over += not held
        figures = {"ms": round(ms, 1), "bound_ms": BOUND_MS, "baseline_ms": round(before[page][0], 1)}
        counts = {"queries": queries, "baseline_queries": before[page][1]}
        say("S12", passed=held, page=address, seen_by=who, rows=rows, **figures, **counts)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
