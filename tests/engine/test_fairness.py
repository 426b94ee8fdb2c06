"""Tenants that share a lane are served in turns, whatever each has waiting."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import connection
from django.utils import timezone

from engine.run.batches import MOST_IN_HAND, window
from tenants.models import Tenant
from tenants.scope import all_tenants
from tests.engine.conftest import MakeLane
from tests.engine.queues import Letter, Letters, work
from tests.engine.vendor import Request, Vendor


def test_a_tenant_with_much_does_not_hold_up_those_with_little(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Letters, rate_per_second=400)
    earlier = timezone.now() - timedelta(hours=1)
    Letter.objects.bulk_create(
        Letter(tenant=lane.tenant, lane=lane, to="big", due_at=earlier) for _ in range(1000)
    )
    small = [Tenant.objects.create(name=f"small {n}", slug=f"small-{n}") for n in range(9)]
    Letter.objects.bulk_create(Letter(tenant=t, lane=lane, to="small") for t in small for _ in range(10))
    vendor.answer = lambda _: (200, {"id": "v"})

    report = work(Letters(vendor.url))

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
    work(Letters(vendor.url))
    assert [request.body["to"] for request in vendor.requests] == ["5", "4", "3", "2", "1"]


def test_flows_of_a_lower_rank_go_first_and_share_fairly(make_lane: MakeLane, vendor: Vendor) -> None:
    """A winner's message does not wait for a broadcast, even one that is claimed already."""
    lane = make_lane(Letters, rate_per_second=150)
    winners = [Tenant.objects.create(name=f"w {n}", slug=f"w-{n}") for n in range(2)]

    class Ranked(Letters):
        flow_rank = f"CASE WHEN {{flow}} IN {tuple(t.pk for t in winners)} THEN 0 ELSE 1 END"

    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to="crowd") for _ in range(450))

    def answer(request: Request) -> tuple[int, object]:
        if len(vendor.requests) == 150:  # in the midst of it
            with all_tenants(atomic=True):
                Letter.objects.bulk_create(
                    Letter(tenant=t, lane=lane, to=t.slug) for t in winners for _ in range(20)
                )
            connection.close()  # of the vendor's thread
        return 200, {"id": "v"}

    vendor.answer = answer

    assert work(Ranked(vendor.url)).done == 490

    order = [request.body["to"] for request in vendor.requests]
    places = [place for place, to in enumerate(order) if to.startswith("w-")]
    assert places[-1] < 150 + 40 + 1.5 * 150, "all within a second and a half"
    between = order[places[0] : places[-1] + 1]
    assert {between.count("w-0"), between.count("w-1")} == {20}
    first_half = [to for to in order if to.startswith("w-")][:20]
    assert abs(first_half.count("w-0") - 10) <= 2, "in turns"


def test_a_lane_is_never_given_more_than_it_can_do_soon() -> None:
    def rows(**changes: float) -> int:
        facts: dict[str, Any] = {"waiting": 10_000, "per_second": 80.0, "lanes": 1, "seconds_left": 50.0}
        return window(**facts | changes)

    assert rows() == 160
    assert rows(seconds_left=0.5) == 40, "what it can do before its deadline"
    assert rows(waiting=10, per_second=1000.0) == 100
    assert rows(per_second=1000.0, lanes=400) == MOST_IN_HAND // 400, "memory is shared out"
    assert rows(per_second=0.05) == 1
