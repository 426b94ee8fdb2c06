"""Somebody holds one tenant's row for some seconds: nobody else's sending waits for it."""

from __future__ import annotations

import time

import pytest

from benchmarks.harness import fill, sandbox, sending
from engine.models import Lane, Run
from messaging.models import Message
from tenants.scope import all_tenants
from tests.reliability.instruments import row_locked
from tests.reliability.ledger import assert_nobody_twice, counts, until

HELD_SECONDS = 4.0
RATE = 40.0
MESSAGES = 1_000


@pytest.mark.slow
@pytest.mark.parametrize("what", ["lane", "planned_message", "message_on_its_way", "token", "tenant"])
def test_a_row_of_one_tenant_that_is_held_stops_nobody_elses_sending(what: str) -> None:
    """Leases are kept, requests marked and given back for all lanes in one statement: a row that somebody
    holds must be left out of it, not waited for."""
    with sandbox(latency_ms=[500, 50], rate=0) as vendor:
        filled = fill(messages=MESSAGES, senders=2, rate=RATE)
        with all_tenants():
            bad, good = Lane.objects.filter(pk__in=filled.lanes).order_by("pk")
        with sending(vendor, "--seconds", "16") as process:
            until(lambda: vendor.total()["accepted"] >= 40, what="both send")
            with row_locked(*_row(what, bad)):
                start = time.time()
                time.sleep(HELD_SECONDS)
                end = time.time()
            process.ended(seconds=60)
        theirs = {m.phone.lstrip("+") for m in _messages(good)}
        in_time = sum(start + 0.5 <= m["at"] < end and m["to"] in theirs for m in vendor.accepted())
        assert_nobody_twice(vendor)
        vendor_took = vendor.total()["accepted"]
    assert in_time >= 0.9 * (end - start - 0.5) * RATE
    assert counts().keys() <= {"accepted", "queued"}
    assert counts()["accepted"] == vendor_took
    with all_tenants():
        assert list(Run.objects.values_list("state", "error")) == [("done", "")]


def _messages(lane: Lane) -> list[Message]:
    with all_tenants():
        return list(Message.objects.filter(lane=lane))


def _row(what: str, lane: Lane) -> tuple[str, int]:
    """Name the table and the row that is held."""
    with all_tenants():
        if state := {"planned_message": "claimed", "message_on_its_way": "sending"}.get(what):
            found = (
                Message.objects.filter(lane=lane, state=state).order_by("-pk").values_list("pk", flat=True)
            )
            until(lambda: found.exists(), what=f"something is {state}")
            return "messaging_message", found[0]
    return {
        "lane": ("engine_lane", lane.pk),
        "token": ("tenants_providertoken", lane.token_id),
        "tenant": ("tenants_tenant", lane.tenant_id or 0),
    }[what]
