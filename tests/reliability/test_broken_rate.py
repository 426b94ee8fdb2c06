"""What an operator changes reaches a running lane: its rate, the tenant's state, the campaign's."""

from __future__ import annotations

import time

import pytest

from benchmarks.harness import Filled, Sandbox, fill, sandbox, sending
from campaigns.actions import complete_campaign, pause_campaign
from messaging.actions import update_sender
from messaging.models import Broadcast, Sender
from tenants.actions import suspend_tenant
from tenants.scope import all_tenants
from tests.reliability.instruments import taken_between, wait_until
from tests.reliability.ledger import assert_nobody_twice, until

FAST, SLOW = 80, 5
REACHED = 2.0
"""Seconds after which a change must have reached the lane, whatever else the machine does."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "fewest"), [(FAST, SLOW, 0.5), (SLOW, FAST, 0.85)], ids=["lowered", "raised"]
)
def test_a_changed_rate_reaches_a_running_lane_within_two_seconds(
    before: float, after: float, fewest: float
) -> None:
    """Once a lane kept the rate it was taken with: 5/s were set and 80/s sent, for up to 50 seconds. From two
    seconds after the change on, three seconds hold what the new rate allows, and no less than `fewest` of it.
    """
    with sandbox(latency_ms=[30, 10], rate=0) as vendor:
        filled = fill(messages=3_000, rate=before)
        with sending(vendor):
            until(lambda: vendor.total()["accepted"] >= before, what="it sends at the first rate")
            changed = _set_rate(filled, after)
            wait_until(changed + REACHED + 3.0)
            arrived = taken_between(vendor, changed + REACHED, changed + REACHED + 3.0)
        assert fewest * after * 3 <= arrived <= 1.03 * after * 3 + 1


@pytest.mark.slow
def test_a_raised_rate_is_not_held_back_by_the_spacing_of_the_old_one() -> None:
    """Once the next holder of a lane that had sent at one message in twenty seconds waited for the rest of
    those twenty, whatever had been set meanwhile: `paced_until` belongs to the rate that it was made by."""
    with sandbox(latency_ms=[30, 10], rate=0) as vendor:
        filled = fill(messages=FAST, rate=0.05)
        with sending(vendor, "--seconds", "2") as slow:
            slow.ended(seconds=60)
        before = vendor.total()["accepted"]
        _set_rate(filled, FAST)
        with sending(vendor, "--until-empty") as fast:
            report = fast.ended(seconds=60)
        assert before <= 1
        assert vendor.total()["accepted"] == FAST
        assert report["seconds"] < 8, "a second's messages, and what a busy machine adds"


@pytest.mark.slow
def test_a_suspended_tenant_and_a_paused_or_completed_campaign_send_nothing_more() -> None:
    """Once only pausing each broadcast stopped it: a suspended tenant's messages went on, and so did those of
    campaigns that were paused or over."""
    with sandbox(latency_ms=[30, 10], rate=0) as vendor:
        filled = fill(messages=4 * 1_000, senders=4, rate=40)
        with all_tenants():
            broadcasts = [Broadcast.objects.get(pk=pk) for pk in filled.broadcasts]
        with sending(vendor):
            until(lambda: _least(vendor, filled) >= 20, what="all four send")
            with all_tenants():
                suspend_tenant(tenant_id=broadcasts[0].tenant_id)
                pause_campaign(campaign_id=broadcasts[1].campaign_id)
                complete_campaign(campaign_id=broadcasts[2].campaign_id)
            wait_until(time.time() + REACHED)
            stopped = _arrivals(vendor, filled)
            wait_until(time.time() + 1.5)
            after = _arrivals(vendor, filled)
        assert_nobody_twice(vendor)
        more = [after[place] - stopped[place] for place in range(4)]
        assert more[:3] == [0, 0, 0], "suspended, paused, completed"
        assert more[3] >= 40 * 1.5 * 0.7, "the fourth goes on"


def _set_rate(filled: Filled, rate: float) -> float:
    """Change the sender's rate as the API and the admin do; returns when, Unix seconds."""
    with all_tenants():
        update_sender(sender_id=Sender.objects.get(lane_id=filled.lanes[0]).pk, rate_per_second=rate)
    return time.time()


def _arrivals(vendor: Sandbox, filled: Filled) -> list[int]:
    """How many requests have arrived for each number, in the order of `filled`."""
    numbers = vendor.stats()["numbers"]
    return [numbers.get(address, {"arrivals": 0})["arrivals"] for address in filled.addresses]


def _least(vendor: Sandbox, filled: Filled) -> int:
    return min(_arrivals(vendor, filled))
