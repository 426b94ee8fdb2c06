"""A process stands still past its lease and comes back when everything seems over: nobody is forgotten."""

from __future__ import annotations

import signal
from contextlib import ExitStack

import pytest

from benchmarks.harness import fill, sandbox, sending
from messaging.actions import tend_broadcasts
from messaging.models import Broadcast, Message
from tenants.scope import all_tenants
from tests.reliability.ledger import assert_nobody_twice, counts, taken, until

MESSAGES = 300


@pytest.mark.slow
def test_what_a_stalled_process_gives_back_to_a_completed_broadcast_is_still_sent() -> None:
    """Once its rows went back to `queued` in a broadcast that was called completed meanwhile: nobody looked
    there again, and 24 of 300 people were skipped in silence. The minute's tick finds them, and the next
    run sends them."""
    with sandbox(latency_ms=[50, 10], rate=0) as vendor, ExitStack() as stack:
        fill(messages=MESSAGES, rate=100)
        stalled = stack.enter_context(sending(vendor, "--until-empty"))
        until(lambda: vendor.total()["accepted"] >= 50, what="the first process sends")
        stalled.signal(signal.SIGSTOP)
        with sending(vendor, "--until-empty") as successor:
            successor.ended(seconds=60)
        tend_broadcasts()
        assert _states_of_broadcasts() == ["completed"], "the successor has done what was left"
        stalled.signal(signal.SIGCONT)
        stalled.ended(seconds=60)

        tend_broadcasts()
        with sending(vendor, "--until-empty") as last:
            last.ended(seconds=60)
        tend_broadcasts()
        assert_nobody_twice(vendor)
        assert _queued_in_completed() == 0
        assert len(taken(vendor)) == MESSAGES, f"nobody is skipped: {counts()}"
        assert counts() == {"accepted": MESSAGES}
        assert _states_of_broadcasts() == ["completed"]


def _states_of_broadcasts() -> list[str]:
    with all_tenants():
        return list(Broadcast.objects.values_list("state", flat=True))


def _queued_in_completed() -> int:
    with all_tenants():
        return Message.objects.filter(state__in=Message.OPEN, broadcast__state="completed").count()
