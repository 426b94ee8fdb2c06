"""Tenants that share a lane are served in turns, whatever each has waiting."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from engine.run.batches import MOST_IN_HAND, batch_size, window
from engine.run.runner import Runner
from tenants.models import Tenant
from tests.engine.conftest import MakeLane
from tests.engine.queues import Letter, Letters
from tests.engine.vendor import Vendor


def test_a_tenant_with_much_does_not_hold_up_those_with_little(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Letters, rate_per_second=400)
    earlier = timezone.now() - timedelta(hours=1)
    Letter.objects.bulk_create(
        Letter(tenant=lane.tenant, lane=lane, to="big", due_at=earlier) for _ in range(1000)
    )
    small = [Tenant.objects.create(name=f"small {n}", slug=f"small-{n}") for n in range(9)]
    Letter.objects.bulk_create(Letter(tenant=t, lane=lane, to="small") for t in small for _ in range(10))
    vendor.answer = lambda _: (200, {"id": "v"})

    report = Runner(Letters(vendor.url)).run(seconds=20, until_empty=True)

    order = [request.body["to"] for request in vendor.requests]
    assert report.done == len(order) == 1090
    last_small = max(i for i, to in enumerate(order) if to == "small")
    assert last_small < 130, "90 of the small ones, with a turn of the big one between each nine"


def test_rows_of_one_flow_leave_oldest_first(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Letters, rate_per_second=300, max_in_flight=1)
    now = timezone.now()
    ages = [3, 1, 2, 5, 4]
    for age in ages:
        Letter.objects.create(tenant=lane.tenant, lane=lane, to=str(age), due_at=now - timedelta(minutes=age))
    vendor.answer = lambda _: (200, {"id": "v"})
    Runner(Letters(vendor.url)).run(seconds=20, until_empty=True)
    assert [request.body["to"] for request in vendor.requests] == ["5", "4", "3", "2", "1"]


def test_the_batch_follows_the_queue() -> None:
    assert [batch_size(n) for n in (0, 500, 501, 2_000, 2_001, 5_000, 5_001)] == [
        100,
        100,
        200,
        200,
        500,
        500,
        1_000,
    ]


def test_a_lane_is_never_given_more_than_it_can_do_soon() -> None:
    def rows(**changes: float) -> int:
        facts = {
            "waiting": 10_000,
            "per_second": 80.0,
            "lanes": 1,
            "rows_per_call": 1,
            "seconds_left": 50.0,
            **changes,
        }
        return window(**facts)

    assert rows() == 160
    assert rows(seconds_left=0.5) == 40, "what it can do before its deadline"
    assert rows(waiting=10, per_second=1000.0) == 100
    assert rows(per_second=1000.0, lanes=400) == MOST_IN_HAND // 400, "memory is shared out"
    assert rows(per_second=0.05, rows_per_call=100) == 100, "one call's worth at least"
