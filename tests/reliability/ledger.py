"""What the database says, and what the sandbox says, of the same messages."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from benchmarks.harness import Sandbox
from engine.clock.tasks import run_queue
from engine.processor import Counts as Report
from engine.store.attempts import row_of
from messaging.models import Message
from tenants.scope import all_tenants

TAKEN = {"accepted", "sent", "delivered", "read"}


def until(met: Callable[[], Any], *, seconds: float = 30.0, what: str = "") -> None:
    """Poll until `met` says so, or fail."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or met}"
        time.sleep(0.02)


def states() -> dict[str, str]:
    """{phone as the vendor knows it: state} of every message."""
    with all_tenants():
        return {phone.lstrip("+"): state for phone, state in Message.objects.values_list("phone", "state")}


def counts() -> Counter[str]:
    return Counter(states().values())


def rows() -> dict[int, dict[str, Any]]:
    """Every message as the webhooks leave it."""
    names = ("state", "wamid", "sent_at", "delivered_at", "read_at", "failed_at")
    with all_tenants():
        return {row.pop("id"): row for row in Message.objects.values("id", *names)}


def taken(vendor: Sandbox) -> Counter[str]:
    """{recipient: how often the vendor took a message to them}."""
    return Counter(message["to"] for message in vendor.accepted())


def row_ids(vendor: Sandbox) -> Counter[int]:
    from uuid import UUID

    ids = (row_of(UUID(message["attempt"])) for message in vendor.accepted())
    return Counter(row for row in ids if row is not None)


def apply_webhooks(vendor: Sandbox) -> Report:
    """Wait until the vendor has delivered every update, and apply them all."""
    until(
        lambda: vendor.stats()["webhooks"]["pending"] == 0,
        seconds=60,
        what="the vendor delivered its webhooks",
    )
    report = run_queue("events", seconds=60, until_empty=True)
    assert (report.failed, report.remaining) == (0, 0)
    return report


def assert_nobody_twice(vendor: Sandbox) -> None:
    total = vendor.total()
    assert (total["recipients_repeated"], total["attempts_repeated"]) == (0, 0)
