"""R5: a vendor that fails in every way: nobody twice, and every row ends in a true state."""

from __future__ import annotations

import pytest

from benchmarks.harness import fill, sandbox, sending
from tests.reliability.conftest import SOAK, Inbox
from tests.reliability.ledger import TAKEN, apply_webhooks, assert_nobody_twice, counts, states, taken

SHARES = {
    "fail_graph": 0.05,
    "fail_bare": 0.03,
    "reset_before": 0.03,
    "reset_after": 0.03,
    "hang_before": 0.02,
    "hang_after": 0.02,
    "unreadable": 0.03,
}
OTHERWISE = {"hang_seconds": 30, "burst_every": 3, "burst_length": 0.2}
MESSAGES = 5_000 if SOAK else 600


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_fault_at_once_leaves_every_row_in_a_true_state(inbox: Inbox) -> None:
    with sandbox(latency_ms=[30, 10], rate=0, webhook_url=inbox.url, **SHARES, **OTHERWISE) as vendor:
        fill(messages=MESSAGES, senders=2, rate=100)
        with sending(vendor, "--until-empty", SEND_TIMEOUT="2") as process:
            report = process.ended(seconds=300)
        total = vendor.total()
        ours, theirs = states(), taken(vendor)
        assert_nobody_twice(vendor)

        assert total["faults"].keys() == SHARES.keys(), "every fault was met"
        assert total["errors"].get("130429"), "a burst was hit"
        assert report["throttled"] == total["errors"]["130429"], "a burst costs no attempt"
        assert ours.keys() >= theirs.keys()
        for who, state in ours.items():
            if who in theirs:
                assert state in TAKEN | {"in_doubt"}, f"{who} was taken there and is {state} here"
            else:
                assert state in {"failed", "in_doubt"}, f"{who} was never taken there and is {state} here"

        apply_webhooks(vendor)
        settled = states()
        assert {who for who, state in settled.items() if state in TAKEN} == theirs.keys()
        assert sum(counts().values()) == MESSAGES
