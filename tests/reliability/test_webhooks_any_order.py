"""R4: webhooks shuffled, ten times each, some before the send's own answer: the same end state."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest

from benchmarks.harness import fill, running, sandbox, sending
from engine.store.attempts import row_of
from tests.reliability.conftest import Inbox
from tests.reliability.ledger import apply_webhooks, assert_nobody_twice, rows

STRONGEST = ("read", "delivered", "failed", "sent")
MESSAGES = 400


@pytest.mark.slow
def test_shuffled_tenfold_and_early_webhooks_end_as_in_order_and_once(inbox: Inbox) -> None:
    settings = {
        "webhook_copies": 10,
        "webhook_shuffle": True,
        "webhook_first": True,
        "webhook_batch": 100,
        "read": 0.5,
        "delivered": 0.8,
        "skip_delivered": 0.3,
        "failed": {"131026": 0.05},
    }
    with sandbox(latency_ms=[20, 10], rate=0, webhook_url=inbox.url, **settings) as vendor:
        fill(messages=MESSAGES, senders=2, rate=100)
        events = [sys.executable, "manage.py", "process", "events", "--seconds", "30"]
        with running(events, vendor) as applying, sending(vendor, "--until-empty") as process:
            report = process.ended(seconds=60)
            applying.process.terminate()
            applying.process.wait(timeout=30)
        apply_webhooks(vendor)
        assert_nobody_twice(vendor)

    assert report["claimed"] == MESSAGES
    told = _in_order_and_once(inbox.bodies)
    found = rows()
    assert len(told) == len(found) == MESSAGES
    assert found == told


def _in_order_and_once(bodies: list[bytes]) -> dict[int, dict[str, Any]]:
    """Work out by hand what the updates say, each taken once: {row: columns}."""
    updates: dict[tuple[int, str], dict[str, Any]] = {}
    for body in bodies:
        for entry in orjson.loads(body)["entry"]:
            for change in entry["changes"]:
                for update in change["value"]["statuses"]:
                    row = row_of(UUID(update["biz_opaque_callback_data"]))
                    assert row is not None
                    updates[row, update["status"]] = update
    told: dict[int, dict[str, Any]] = {}
    for (row, status), update in updates.items():
        columns = told.setdefault(
            row, dict.fromkeys(("sent_at", "delivered_at", "read_at", "failed_at")) | {"wamid": update["id"]}
        )
        columns[f"{status}_at"] = datetime.fromtimestamp(int(update["timestamp"]), UTC)
    for columns in told.values():
        columns["state"] = next(state for state in STRONGEST if columns[f"{state}_at"])
    return told
