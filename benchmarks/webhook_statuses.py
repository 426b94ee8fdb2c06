"""S10: status webhooks, POSTs of 200 updates, from stored receipt to settled message.

    python -m benchmarks.webhook_statuses [--messages N] [--baseline N]

Three statuses a message, each kind long after the one before so that no two of a message meet in a batch,
every tenth delivered twice, shuffled over a window of ten POSTs. The baseline is the usual handler on the
same machine and tables: parse, get the row by its primary key, compare, save, one transaction a POST.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from typing import Any

import orjson

from benchmarks.harness import Filled, fill, say, scratch_database

BOUND = 3_000
POST = 200
WINDOW = 10 * POST
T0 = 1_790_000_000


def accept(filled: Filled) -> list[tuple[str, str, str]]:
    """Bring the messages to where a runner leaves them; returns (attempt, wamid, address) of each."""
    from django.db import connection

    from engine.store.attempts import new_attempt
    from messaging.models import Message

    address = dict(zip(filled.lanes, filled.addresses, strict=True))
    rows = list(
        Message.objects.filter(lane_id__in=filled.lanes, state="queued")
        .order_by("pk")
        .values_list("pk", "lane_id")
    )
    attempts = [new_attempt(pk, 1) for pk, _ in rows]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            UPDATE messaging_message m SET state = 'accepted', attempt = t.attempt, attempts = 1,
                                           wamid = 'wamid.' || m.id, accepted_at = now()
              FROM unnest(%s::bigint[], %s::uuid[]) AS t (id, attempt) WHERE m.id = t.id
            """,
            [[pk for pk, _ in rows], attempts],
        )
        cursor.execute("ANALYZE messaging_message")
    return [
        (str(attempt), f"wamid.{pk}", address[lane])
        for (pk, lane), attempt in zip(rows, attempts, strict=True)
    ]


def posts(sent: list[tuple[str, str, str]]) -> list[bytes]:
    """Make the POSTs that Meta would: by number, out of order, some statuses twice."""
    dice = random.Random(10)
    told: list[tuple[float, str, dict[str, Any]]] = []
    for place, (attempt, wamid, address) in enumerate(sent):
        for step, word in enumerate(("sent", "delivered", "read")):
            status = {
                "id": wamid,
                "status": word,
                "timestamp": str(T0 + place // 80 + step),
                "recipient_id": "49151",
                "biz_opaque_callback_data": attempt,
                "pricing": {"billable": True, "category": "marketing"},
            }
            at = place + step * len(sent)
            copies = 2 if dice.random() < 0.1 else 1
            told.extend((at + dice.uniform(0, WINDOW), address, status) for _ in range(copies))
    told.sort(key=lambda one: one[0])
    bodies = []
    for address in {address for _, address, _ in told}:
        mine = [status for _, of, status in told if of == address]
        for start in range(0, len(mine), POST):
            value = {
                "messaging_product": "whatsapp",
                "metadata": {"display_phone_number": "1", "phone_number_id": address},
                "statuses": mine[start : start + POST],
            }
            entry = {"id": "1", "changes": [{"field": "messages", "value": value}]}
            bodies.append(orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]}))
    return bodies


def ours(bodies: list[bytes]) -> float:
    from engine.clock.tasks import run_queue
    from engine.models import Receipt

    Receipt.objects.bulk_create(Receipt(provider="whatsapp", body=body) for body in bodies)
    started = time.perf_counter()
    report = run_queue("events", seconds=600, until_empty=True)
    seconds = time.perf_counter() - started
    assert (report.done, report.failed, report.remaining) == (len(bodies), 0, 0), report
    return seconds


def row_by_row(bodies: list[bytes]) -> float:
    """Apply them as it is usually done."""
    from datetime import UTC, datetime
    from uuid import UUID

    from django.db import transaction

    from engine.store.attempts import row_of
    from messaging.models import Message
    from tenants.scope import all_tenants

    strength = {"accepted": 0, "sent": 1, "delivered": 2, "read": 3}
    started = time.perf_counter()
    with all_tenants():
        for body in bodies:
            statuses: list[dict[str, Any]] = orjson.loads(body)["entry"][0]["changes"][0]["value"]["statuses"]
            with transaction.atomic():
                for status in statuses:
                    message = Message.objects.select_for_update().get(
                        pk=row_of(UUID(status["biz_opaque_callback_data"]))
                    )
                    column = f"{status['status']}_at"
                    setattr(message, column, datetime.fromtimestamp(int(status["timestamp"]), UTC))
                    if strength[status["status"]] > strength[message.state]:
                        message.state = status["status"]
                    message.save(update_fields=["state", column])
    return time.perf_counter() - started


def settled(filled: Filled) -> int:
    from messaging.models import Message

    done = Message.objects.filter(lane_id__in=filled.lanes, state="read", sent_at__isnull=False)
    return done.filter(delivered_at__isnull=False, read_at__isnull=False).count()


def updates(bodies: list[bytes]) -> int:
    return sum(body.count(b'"status"') for body in bodies)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--messages", type=int, default=60_000)
    parser.add_argument("--baseline", type=int, default=3_000)
    options = parser.parse_args()
    with scratch_database("webhook_statuses"):
        from tenants.scope import all_tenants

        with all_tenants():
            baseline = fill(messages=options.baseline, senders=1)
            slow = posts(accept(baseline))
            slow_seconds = row_by_row(slow)
            assert settled(baseline) == options.baseline
            filled = fill(messages=options.messages, senders=4)
            bodies = posts(accept(filled))
            seconds = ours(bodies)
            assert settled(filled) == options.messages
    rate, slow_rate = updates(bodies) / seconds, updates(slow) / slow_seconds
    return say(
        "S10",
        passed=rate >= BOUND,
        updates=updates(bodies),
        posts=len(bodies),
        seconds=round(seconds, 2),
        updates_per_second=round(rate),
        bound=BOUND,
        baseline_updates_per_second=round(slow_rate),
        times_the_baseline=round(rate / slow_rate, 1),
    )


if __name__ == "__main__":
    sys.exit(main())
