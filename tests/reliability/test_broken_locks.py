"""Somebody holds a broadcast's row: only what needs that row waits."""

from __future__ import annotations

import pytest

from benchmarks.harness import fill, sandbox, sending
from messaging.models import Broadcast, BroadcastStep, MessageTemplate
from tenants.scope import all_tenants
from tests.reliability.instruments import row_locked, taken_between, wait_until
from tests.reliability.ledger import assert_nobody_twice, until

RATE, HELD = 80, 4.0


@pytest.mark.slow
def test_a_held_broadcast_row_does_not_slow_another_tenants_lane() -> None:
    """Once settling waited for the row that the pause for a dead token wanted, and everything waited for
    settling: every lane of the process stood still while somebody held one broadcast, 12 seconds in one
    case."""
    with sandbox(latency_ms=[30, 10], rate=0) as vendor:
        filled = fill(messages=2 * 1_200, senders=2, rate=RATE)
        failing = filled.broadcasts[0]
        vendor.configure(dead_tokens=[_name_apart(failing)])
        with sending(vendor, LEASE_SECONDS="15"):
            with row_locked("messaging_broadcast", failing):
                until(lambda: taken_between(vendor, 0, 1e12, "offer"), what="the other lane sends")
                began = max(message["at"] for message in vendor.accepted())
                wait_until(began + HELD)
            sent = taken_between(vendor, began, began + HELD, "offer")
            until(lambda: _stopped(failing), seconds=20, what="the pause has its row at last")
        assert_nobody_twice(vendor)
    assert sent >= 0.8 * RATE * HELD


def _name_apart(broadcast_id: int) -> str:
    """Give a broadcast's template a name of its own; returns the secret that it is sent with."""
    with all_tenants():
        broadcast = Broadcast.objects.get(pk=broadcast_id)
        MessageTemplate.objects.filter(tenant_id=broadcast.tenant_id).update(name="refused")
        return str(broadcast.sender.provider_token.secret)


def _stopped(broadcast_id: int) -> bool:
    with all_tenants():
        return (
            Broadcast.objects.filter(pk=broadcast_id, state="paused").exists()
            or BroadcastStep.objects.filter(broadcast_id=broadcast_id, state="paused").exists()
        )
