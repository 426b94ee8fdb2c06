"""A vendor that takes connections and never answers: what it may have taken is in doubt, so ask it little."""

from __future__ import annotations

import time

import pytest

from benchmarks.harness import Sandbox, fill, sandbox, sending
from tests.reliability.instruments import taken_between
from tests.reliability.ledger import assert_nobody_twice, counts, until

RATE = 80
TIMEOUT = 1.0
HANGING = 18.0
"""Seconds: more than one rest of the lane, since it was after the rest that everybody left together."""
HANDFUL = 6
"""Calls that may go out to see whether the vendor answers again, in these seconds."""
NOTICED = 1.0
"""Seconds that may pass between the first call's time-out and the last call's leaving."""
BACK_WITHIN = 40.0


@pytest.mark.slow
def test_a_vendor_that_hangs_is_asked_one_call_at_a_time_and_comes_back_to_the_full_rate() -> None:
    """Once a whole second's calls went out together after each rest: 676 messages in doubt in 86 seconds.
    Only what left before the first time-out may be in doubt, and then a call now and then."""
    with sandbox(latency_ms=[50, 10], rate=0, hang_before=1.0, hang_seconds=60) as vendor:
        fill(messages=4_000, rate=RATE)
        with sending(vendor, SEND_TIMEOUT=str(TIMEOUT)) as process:
            until(lambda: vendor.total()["arrivals"], what="it sends")
            began = time.monotonic()
            until(lambda: time.monotonic() - began > TIMEOUT + NOTICED + 1.0, what="it has noticed")
            first = vendor.total()["arrivals"]
            until(lambda: time.monotonic() - began > HANGING, what="more than one rest is over")
            arrivals = vendor.total()["arrivals"]
            assert first <= RATE * (TIMEOUT + NOTICED)
            assert arrivals - first <= HANDFUL, f"{arrivals - first} more after a first {first}"
            until(lambda: counts()["in_doubt"] >= first, seconds=10, what="they are shown in doubt")
            assert counts()["in_doubt"] <= RATE * (TIMEOUT + NOTICED) + HANDFUL

            vendor.configure(hang_before=0.0)
            until(lambda: _rate(vendor) >= 0.9 * RATE, seconds=BACK_WITHIN, what="the full rate again")
            process.kill()
        assert_nobody_twice(vendor)


def _rate(vendor: Sandbox) -> float:
    """Messages a second that the vendor took in the last two seconds."""
    return taken_between(vendor, time.time() - 2.0, time.time()) / 2.0
