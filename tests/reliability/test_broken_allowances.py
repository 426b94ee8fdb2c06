"""What a token may spend in an hour is shared by all its numbers, and follows what is set on the token."""

from __future__ import annotations

import pytest
from django.db import connection

from benchmarks.harness import Sandbox, fill, sandbox, sending
from engine.models import Lane
from messaging.actions import create_sender
from messaging.models import Broadcast, BroadcastStep, Message
from tenants.models import ProviderToken
from tenants.scope import all_tenants
from tests.reliability.ledger import assert_nobody_twice, counts

ALLOWED, RAISED = 30, 40
MESSAGES = 80


@pytest.mark.slow
def test_two_numbers_of_one_token_share_its_hour_and_a_raised_allowance_lets_the_difference_leave() -> None:
    """Once each number had the token's whole allowance, so that two sent twice as much as was allowed, and
    raising it on the token reached neither."""
    with sandbox(latency_ms=[20, 5], rate=0) as vendor:
        token_id = _two_numbers_on_one_token()
        assert _send(vendor) <= ALLOWED
        assert _send(vendor) <= ALLOWED, "another run of the same hour"
        with all_tenants(atomic=True):  # row-level security shows nobody's token otherwise
            _allow(token_id, RAISED)
        assert _send(vendor) == RAISED
        assert_nobody_twice(vendor)
    assert counts() == {"accepted": RAISED, "queued": MESSAGES - RAISED}


def _two_numbers_on_one_token() -> int:
    """Make a token of `ALLOWED` calls an hour with two numbers, each with half of the messages."""
    filled = fill(messages=MESSAGES, rate=80)
    with all_tenants():
        lane = Lane.objects.get(pk=filled.lanes[0])
        token = ProviderToken(tenant_id=lane.tenant_id, provider="whatsapp", label="shared")
        token.secret = "EAAG-shared"
        token.save()
        _allow(token.pk, ALLOWED)
        given = Broadcast.objects.get(pk=filled.broadcasts[0])
        step = BroadcastStep.objects.get(broadcast=given)
        messages = list(Message.objects.order_by("pk").values_list("pk", flat=True))
        for place in range(2):
            sender = create_sender(
                tenant_id=lane.tenant_id,
                provider_token_id=token.pk,
                kind="whatsapp",
                address=f"2{place:09}",
                rate_per_second=80,
            )
            broadcast = Broadcast.objects.create(
                tenant_id=lane.tenant_id,
                campaign_id=given.campaign_id,
                sender=sender,
                name=sender.address,
                audience={"all": True},
                state=Broadcast.State.RUNNING,
                total=MESSAGES // 2,
            )
            mine = BroadcastStep.objects.create(
                tenant_id=lane.tenant_id,
                broadcast=broadcast,
                position=1,
                template_id=step.template_id,
                share=100,
                state=BroadcastStep.State.RUNNING,
                frozen=step.frozen,
            )
            Message.objects.filter(pk__in=messages[place::2]).update(
                lane_id=sender.lane_id, broadcast=broadcast, step=mine
            )
        return int(token.pk)


def _allow(token_id: int, calls: int) -> None:
    """Set the allowance by plain SQL, as a person at the database would."""
    with all_tenants(), connection.cursor() as cursor:
        cursor.execute(
            "UPDATE tenants_providertoken SET hourly_allowance = %s WHERE id = %s", [calls, token_id]
        )
        assert cursor.rowcount == 1


def _send(vendor: Sandbox) -> int:
    """Run until nothing more may leave; returns how many requests have arrived up to now."""
    with sending(vendor, "--until-empty") as process:
        process.ended(seconds=60)
    arrivals: int = vendor.total()["arrivals"]
    return arrivals
