"""R1: the sending process is killed at any moment, and nobody is skipped and nobody messaged twice."""

from __future__ import annotations

import random
import time

import pytest

from benchmarks.harness import Sandbox, fill, sandbox, sending
from engine.models import Run
from tests.reliability.conftest import SOAK, Inbox
from tests.reliability.ledger import TAKEN, apply_webhooks, assert_nobody_twice, counts, states, taken, until

KILLS = 50 if SOAK else 8
RATE, LANES, MESSAGES = 200.0, 2, 300 * KILLS
LATENCY = 0.1
SLICE = 0.25
"""Seconds of the rate that are marked as leaving before they leave."""
UNWRITTEN = LATENCY + 0.3 + 0.3
"""Seconds from a request's leaving until its outcome is written: the answer, the settler's pause and its
turn, and what a busy machine adds."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_at_any_moment_skip_nobody_and_message_nobody_twice(inbox: Inbox, dice: random.Random) -> None:
    in_doubt: list[int] = []
    with sandbox(latency_ms=[LATENCY * 1000, 20], rate=0, webhook_url=inbox.url) as vendor:
        fill(messages=MESSAGES, senders=LANES, rate=RATE)
        for _ in range(KILLS):
            _kill_at_some_moment(vendor, dice)
            in_doubt.append(counts()["sending"])
        assert any(in_doubt), "no kill hit anything: the test shows nothing"
        with sending(vendor, "--until-empty") as process:
            process.ended(seconds=120)

        ours, theirs = states(), taken(vendor)
        assert_nobody_twice(vendor)
        assert max(in_doubt) <= RATE * LANES * (SLICE + UNWRITTEN)
        assert set(ours.values()) <= TAKEN | {"in_doubt"}, "everybody was tried"
        assert theirs.keys() <= ours.keys()

        apply_webhooks(vendor)
        settled = states()
        assert {who for who, state in settled.items() if state in TAKEN} == theirs.keys()
        shown = {who for who, state in settled.items() if state == "in_doubt"}
        assert shown == settled.keys() - theirs.keys(), "in doubt is who the vendor never saw, and is shown"
        assert len(shown) <= KILLS * RATE * LANES * SLICE


def _kill_at_some_moment(vendor: Sandbox, dice: random.Random) -> None:
    """Start a sender, and kill it somewhere between taking its first number and half a second of sending."""
    with sending(vendor) as process:
        ours = Run.objects.filter(process__endswith=f":{process.pid}")
        until(ours.exists, what="it has taken a number that its predecessor held")
        time.sleep(dice.uniform(0.0, 0.4))  # not a wait for anything: the moment is the test's dice
        process.kill()
