"""The database ends a sender's connections, and its transactions: nothing that left is forgotten."""

from __future__ import annotations

import random
import sys
from typing import Any

import pytest

from benchmarks.harness import Sandbox, fill, running, sandbox, sending
from engine.models import Run
from tenants.scope import all_tenants
from tests.reliability.conftest import Inbox
from tests.reliability.instruments import AS_CHILD, crossing_locks, terminating_backends
from tests.reliability.ledger import TAKEN, apply_webhooks, assert_nobody_twice, counts, states, taken, until

MESSAGES = 600
LASTING = {"LEASE_SECONDS": "15"}
"""A lease that no trouble of these seconds uses up: whoever stays alive keeps its lanes."""
AT_ONCE = {"sent_after": 0.02, "delivered_after": 0.04, "read_after": 0.08, "webhook_interval": 0.01}


@pytest.mark.slow
def test_a_sender_whose_backends_are_ended_all_the_time_loses_nothing() -> None:
    """Once one in seven ended connections ended the run, by an error that passed for none of the database's,
    and hundreds that had never left were in doubt. The vendor loses nothing here: so nothing is in doubt."""
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")  # noqa: T201
    with sandbox(latency_ms=[40, 15], rate=0) as vendor:
        fill(messages=MESSAGES, senders=2, rate=100)
        with sending(vendor, "--until-empty", **AS_CHILD, **LASTING) as process:
            until(lambda: vendor.total()["accepted"], what="it sends")
            with terminating_backends(random.Random(seed), seconds=4) as ended:
                report = process.ended(seconds=60)
        _assert_nothing_was_lost(vendor, report)
    assert len(ended) >= 5, "hardly a backend was ended: the test shows nothing"


@pytest.mark.slow
def test_statuses_that_come_at_once_and_locks_that_cross_end_no_run(inbox: Inbox) -> None:
    """Once a deadlock between settling and statuses, or with anybody who locks the same rows in another
    order, ended the run, and what was in flight was in doubt."""
    events = [sys.executable, "manage.py", "process", "events", "--seconds", "30", "--json"]
    with sandbox(latency_ms=[150, 50], rate=0, webhook_url=inbox.url, **AT_ONCE) as vendor:
        fill(messages=MESSAGES, senders=2, rate=100)
        with running(events, vendor) as applying:
            with sending(vendor, "--until-empty", **LASTING) as process:
                until(lambda: vendor.total()["accepted"] >= 100, what="it sends")
                with crossing_locks(seconds=4) as crossed:
                    report = process.ended(seconds=60)
            applying.process.terminate()
            assert applying.process.wait(timeout=30) == 0
        apply_webhooks(vendor)
        _assert_nothing_was_lost(vendor, report)
    assert len(crossed) >= 3, "hardly any lock was held: the test shows nothing"


def _assert_nothing_was_lost(vendor: Sandbox, report: dict[str, Any]) -> None:
    """Everybody was written to once, is known to have been, and the run says so itself."""
    assert_nobody_twice(vendor)
    ours = states()
    assert len(taken(vendor)) == len(ours) == MESSAGES, "nobody is skipped"
    assert set(ours.values()) <= TAKEN, counts()
    assert (report["in_doubt"], report["failed"], report["remaining"]) == (0, 0, 0)
    with all_tenants():
        assert list(Run.objects.exclude(state="done").values_list("state", "error")) == []
