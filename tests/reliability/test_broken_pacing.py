"""A refusal now and then is weather, many are news: the lane keeps the rate that there is."""

from __future__ import annotations

import pytest

from benchmarks.harness import fill, sandbox, sending
from tests.reliability.instruments import taken_between, wait_until
from tests.reliability.ledger import assert_nobody_twice, until

LINE_RATE, TRUE_LIMIT = 80, 40


@pytest.mark.slow
def test_a_stray_refusal_now_and_then_costs_next_to_nothing() -> None:
    """Once each refusal halved the rate for half a minute: one or two among 2,400 messages brought a line of
    80 a second to between 60 and 68. The refusals come by the sandbox's clock, one or two every three
    seconds, beside what its sliding count refuses."""
    with sandbox(latency_ms=[40, 15], rate=LINE_RATE, burst_every=3.0, burst_length=0.013) as vendor:
        fill(messages=2_000, rate=LINE_RATE)
        with sending(vendor):
            until(lambda: vendor.total()["accepted"], what="it sends")
            began = min(message["at"] for message in vendor.accepted())
            wait_until(began + 8.5)
            sent = taken_between(vendor, began + 0.5, began + 8.5)
            each = [taken_between(vendor, began + at, began + at + 1) for at in range(1, 8)]
        total = vendor.total()
        assert_nobody_twice(vendor)
    refused = total["errors"].get("130429", 0)
    assert refused, "the vendor refused nothing: the test shows nothing"
    assert sent >= 0.93 * LINE_RATE * 8, f"{sent} in 8 s, {refused} refused: {each}"
    assert min(each) >= 0.6 * LINE_RATE, f"no second is cut down: {each}"


@pytest.mark.slow
def test_a_number_whose_true_limit_is_half_of_what_is_set_is_used_nearly_to_that_limit() -> None:
    """Once the rate sawed between half and twice the limit: 26 messages a second of the 40 that there were,
    and 2 % refused. From the tenth second on the lane stays just under where it was refused."""
    with sandbox(latency_ms=[40, 15], rate=TRUE_LIMIT) as vendor:
        fill(messages=2_000, rate=LINE_RATE)
        with sending(vendor):
            until(lambda: vendor.total()["accepted"], what="it sends")
            began = min(message["at"] for message in vendor.accepted())
            wait_until(began + 10.0)
            before = vendor.total()
            wait_until(began + 18.0)
            sent = taken_between(vendor, began + 10.0, began + 18.0)
            after = vendor.total()
        assert_nobody_twice(vendor)
    refused = after["errors"].get("130429", 0) - before["errors"].get("130429", 0)
    assert after["errors"].get("130429"), "it was never refused: the test shows nothing"
    assert sent >= 0.85 * TRUE_LIMIT * 8, f"{sent} in 8 s, {refused} refused"
    assert refused <= 0.03 * (after["arrivals"] - before["arrivals"])
