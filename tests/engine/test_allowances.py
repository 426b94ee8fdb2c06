"""What a token may spend: shared by its lanes, sliding, exact, and corrected by the vendor's own word."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from engine.models import Allowance, AllowanceHold, AllowanceUse, Lane, Run
from engine.processor import Usage
from engine.store import allowances, leases
from engine.store.allowances import Spent
from engine.store.session import cursor
from tenants.models import ProviderToken
from tenants.scope import all_tenants
from tests.engine.conftest import MakeLane
from tests.engine.queues import Export, Exports, Letter, Letters, work
from tests.engine.vendor import Request, Vendor


def fill(lane: Lane, n: int) -> None:
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=f"{lane.name}{i}") for i in range(n))


def left(lane: Lane) -> list[int]:
    with connection.cursor() as db:
        db.execute(
            "SELECT left_over FROM engine_allowanceleft WHERE token_id = %s ORDER BY id", [lane.token_id]
        )
        return [row[0] for row in db.fetchall()]


def age(lane: Lane, by: timedelta) -> None:
    """Let time pass for what was spent."""
    for use in AllowanceUse.objects.filter(allowance__token_id=lane.token_id):
        AllowanceUse.objects.filter(pk=use.pk).update(slot=use.slot - by)


def hold(lane: Lane, run: int = 1) -> None:
    with transaction.atomic():
        assert leases.acquire(cursor(), processor=lane.processor, run=run, lane_ids=[lane.pk], most=1)


@pytest.fixture
def answering(vendor: Vendor) -> Vendor:
    vendor.answer = lambda _: (200, {"id": "v"})
    return vendor


def test_calls_stop_at_the_allowance_and_the_rest_waits(make_lane: MakeLane, answering: Vendor) -> None:
    lane = make_lane(Letters, rate_per_second=500, hourly_allowance=25)
    fill(lane, 60)

    report = work(Letters(answering.url), seconds=60)

    assert report.seconds < 30, "it does not wait for the next hour's calls"
    assert len(answering.requests) == report.done == 25
    assert Letter.objects.filter(state="queued", attempts=0).count() == 35
    assert left(lane) == [0]
    assert not AllowanceHold.objects.exists()


def test_the_lanes_of_one_token_share_its_allowance(make_lane: MakeLane, answering: Vendor) -> None:
    first = make_lane(Letters, "first", rate_per_second=200, hourly_allowance=50)
    second = make_lane(Letters, "second", rate_per_second=200, tenant=first.tenant, token=first.token)
    fill(first, 100)
    fill(second, 100)

    work(Letters(answering.url))

    assert len(answering.requests) == 50


def test_the_hour_slides(make_lane: MakeLane, answering: Vendor) -> None:
    """Two fixed hours side by side would let out twice as much around the turn."""
    lane = make_lane(Letters, rate_per_second=500, hourly_allowance=20)
    fill(lane, 100)
    work(Letters(answering.url))
    assert len(answering.requests) == 20

    age(lane, timedelta(minutes=59))
    work(Letters(answering.url))
    assert len(answering.requests) == 20, "still within the hour, whatever the clock on the wall says"

    age(lane, timedelta(minutes=3))
    work(Letters(answering.url))
    assert len(answering.requests) == 40


@pytest.mark.parametrize("how", ["save", "sql"])
def test_an_edit_reaches_the_lanes_whoever_makes_it(make_lane: MakeLane, answering: Vendor, how: str) -> None:
    lane = make_lane(Letters, rate_per_second=500, hourly_allowance=10)
    fill(lane, 100)
    work(Letters(answering.url))
    if how == "save":
        lane.token.hourly_allowance = 15
        lane.token.save()
    else:
        ProviderToken.objects.filter(pk=lane.token_id).update(hourly_allowance=15)

    work(Letters(answering.url))

    assert len(answering.requests) == 15
    ProviderToken.objects.filter(pk=lane.token_id).update(hourly_allowance=None)
    work(Letters(answering.url))
    assert len(answering.requests) == 100, "no limit any more"


def test_what_did_not_leave_is_given_back(make_lane: MakeLane, answering: Vendor) -> None:
    lane = make_lane(Letters, rate_per_second=500, hourly_allowance=1000)
    fill(lane, 30)
    work(Letters(answering.url), seconds=5)
    assert left(lane) == [970]


def test_a_call_that_never_reached_the_vendor_costs_nothing(make_lane: MakeLane) -> None:
    lane = make_lane(Letters, rate_per_second=50, hourly_allowance=100)
    fill(lane, 5)
    report = work(Letters("http://127.0.0.1:9"), seconds=1, until_empty=False)
    assert left(lane) == [100]
    assert (report.claimed > 0, report.calls) == (True, 0), "and is no call"


def test_what_a_dead_runner_held_counts_as_spent(make_lane: MakeLane) -> None:
    lane = make_lane(Letters, hourly_allowance=100)
    hold(lane)
    with transaction.atomic():
        granted = allowances.reserve(cursor(), run=1, wanted={(lane.pk, "calls"): 30}, held={})
        assert granted == {(lane.pk, "calls"): 30}
        allowances.forfeit(cursor(), lanes=[lane.pk])
    assert left(lane) == [70]
    assert AllowanceUse.objects.get().spent == 30


def test_it_is_never_passed_however_many_take_from_it(make_lane: MakeLane) -> None:
    lane = make_lane(Letters, hourly_allowance=100)
    lanes = [lane] + [make_lane(Letters, f"l{n}", tenant=lane.tenant, token=lane.token) for n in range(3)]
    for one in lanes:
        hold(one)
    granted: list[int] = []

    def take(one: Lane) -> None:
        held = 0
        try:
            with all_tenants():
                for _ in range(10):
                    key = (one.pk, "calls")
                    with transaction.atomic():
                        got = allowances.reserve(cursor(), run=1, wanted={key: 7}, held={key: held})[key]
                    assert got is not None
                    held += got
                    granted.append(got)
        finally:
            connection.close()

    threads = [threading.Thread(target=take, args=[one]) for one in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(granted) == 100
    assert left(lane) == [0]


def test_a_reservation_made_twice_after_a_lost_acknowledgement_is_one(make_lane: MakeLane) -> None:
    lane = make_lane(Letters, hourly_allowance=100)
    hold(lane)
    key = (lane.pk, "calls")
    for _ in range(2):
        with transaction.atomic():
            assert allowances.reserve(cursor(), run=1, wanted={key: 30}, held={key: 0})[key] == 30
    assert left(lane) == [70]


def test_a_costly_call_needs_every_unit(make_lane: MakeLane, vendor: Vendor) -> None:
    """A paid run costs a call and some cents; looking at it costs a call alone."""
    lane = make_lane(Exports, hourly_allowance=100)
    Allowance.objects.create(
        tenant=lane.tenant, token=lane.token, unit="usd_cents", limit=80, window="calendar_month"
    )
    Export.objects.bulk_create(Export(tenant=lane.tenant, lane=lane, what=f"w{n}") for n in range(4))
    vendor.answer = lambda r: (200, {"id": "run", "state": "finished"})

    work(Exports(vendor.url))

    assert [r.path for r in vendor.requests].count("/start") == 2, "74 of 80 cents"
    assert Export.objects.filter(state="done").count() == 2
    assert sorted(left(lane)) == [6, 96]


def test_a_budget_that_is_used_up_stops_beginnings_and_not_what_was_paid_for(
    make_lane: MakeLane, vendor: Vendor
) -> None:
    """The last cent is spent on a run: it is still looked at until it is finished."""
    lane = make_lane(Exports)
    Allowance.objects.create(
        tenant=lane.tenant, token=lane.token, unit="usd_cents", limit=37, window="calendar_month"
    )
    for n in range(30):
        Export.objects.create(tenant=lane.tenant, lane=lane, what=f"w{n}")
    looks = 0

    def answer(request: Request) -> tuple[int, object]:
        nonlocal looks
        if request.path == "/start":
            return 200, {"id": "run-1"}
        looks += 1
        return 200, {"state": "running" if looks < 4 else "finished"}

    vendor.answer = answer

    report = work(Exports(vendor.url), seconds=5, until_empty=False)

    assert [r.path for r in vendor.requests] == ["/start", *["/runs/run-1"] * 4]
    assert Export.objects.filter(state="done").count() == 1
    waiting = Export.objects.filter(state="queued")
    assert set(waiting.values_list("error_code", "attempt", "attempts")) == {("allowance", None, 0)}
    assert report.claimed < 60, "what cannot be paid waits, and is not claimed again and again"


def test_the_vendors_word_counts_where_it_is_more_than_ours(make_lane: MakeLane) -> None:
    lane = make_lane(Letters, hourly_allowance=100)
    with transaction.atomic():
        allowances.correct(cursor(), {(lane.token_id, "calls"): Usage("calls", share=0.4)})
    assert left(lane) == [60]
    with transaction.atomic():
        allowances.correct(cursor(), {(lane.token_id, "calls"): Usage("calls", share=0.1)})
    assert left(lane) == [60], "what we know is not forgotten"
    said = Usage("calls", limit=200, regain_after=timedelta(minutes=5))
    with transaction.atomic():
        allowances.correct(cursor(), {(lane.token_id, "calls"): said})
    assert left(lane) == [0], "it wants no call for five minutes"
    allowance = Allowance.objects.get()
    assert allowance.limit == 200
    assert allowance.blocked_until is not None
    assert allowance.blocked_until > timezone.now()


def test_a_reply_that_says_used_up_stops_every_lane_on_the_token(make_lane: MakeLane, vendor: Vendor) -> None:
    class Heedful(Letters):
        def usage(self, reply: Any) -> Usage:
            return Usage("calls", share=1.0, regain_after=timedelta(minutes=10))

    first = make_lane(Letters, "first", rate_per_second=20, hourly_allowance=1000)
    second = make_lane(Letters, "second", rate_per_second=20, tenant=first.tenant, token=first.token)
    fill(first, 50)
    fill(second, 50)
    vendor.answer = lambda _: (200, {"id": "v"})

    work(Heedful(vendor.url))

    assert len(vendor.requests) <= 10 + 10, "what was on its way already, and no more"
    assert left(first) == [0]
    assert set(Lane.objects.values_list("breaker", flat=True)) == {"open"}


@pytest.mark.parametrize(
    ("window", "passes"),
    [
        ("hour", timedelta(minutes=62)),
        ("day", timedelta(hours=25)),
        ("calendar_day", timedelta(days=1, minutes=1)),
        ("calendar_month", timedelta(days=32)),
    ],
)
def test_each_window_lets_go_of_what_is_behind_it(
    make_lane: MakeLane, window: str, passes: timedelta
) -> None:
    lane = make_lane(Letters)
    Allowance.objects.create(
        tenant=lane.tenant, token=lane.token, unit="units", limit=10, window=window, timezone="US/Pacific"
    )
    with transaction.atomic():
        spent = [Spent(lane.pk, "units", lane.tenant_id or 0, 7)]
        allowances.spend(cursor(), spent=spent, held={})
    assert left(lane) == [3]
    age(lane, passes)
    assert left(lane) == [10]


def test_use_is_kept_for_each_tenant_on_whose_behalf_it_was(make_lane: MakeLane, answering: Vendor) -> None:
    lane = make_lane(Letters, rate_per_second=500, hourly_allowance=100)
    other = make_lane(Letters, "other").tenant
    fill(lane, 3)
    Letter.objects.bulk_create(Letter(tenant=other, lane=lane, to=f"o{i}") for i in range(5))
    work(Letters(answering.url))
    by_tenant: dict[int, int] = {}
    for use in AllowanceUse.objects.all():
        by_tenant[use.tenant_id] = by_tenant.get(use.tenant_id, 0) + use.spent
    assert by_tenant == {lane.tenant_id: 3, other.pk if other else 0: 5}


def test_the_next_call_is_said_to_be_possible_when_the_oldest_has_left_the_window(
    make_lane: MakeLane, answering: Vendor
) -> None:
    lane = make_lane(Letters, rate_per_second=500, hourly_allowance=5)
    fill(lane, 10)
    work(Letters(answering.url))
    age(lane, timedelta(minutes=40))
    with connection.cursor() as db:
        db.execute("SELECT extract(epoch FROM resets_at - now()) / 60 FROM engine_allowanceleft")
        (minutes,) = db.fetchone()
    assert 19 <= minutes <= 22


def test_a_time_zone_that_nobody_knows_is_kept_out(make_lane: MakeLane) -> None:
    """It would raise where every tenant's requests are looked for."""
    lane = make_lane(Letters)
    with pytest.raises(IntegrityError, match="allowance_timezone_known"), transaction.atomic():
        Allowance.objects.create(
            tenant=lane.tenant,
            token=lane.token,
            limit=1,
            unit="calls",
            window="calendar_day",
            timezone="Mars",
        )


@pytest.mark.parametrize(
    "said", [Usage("calls", 1.1), Usage("calls", 10.0), Usage("calls", used=10**15, limit=10**15)]
)
def test_figures_as_large_as_a_column_take_stop_nobody(
    make_lane: MakeLane, answering: Vendor, said: Usage
) -> None:
    """A tenant sets the largest limit there is, and its vendor says that more than that is used."""

    class Boasting(Letters):
        def usage(self, reply: Any) -> Usage | None:
            return said

    lane = make_lane(Letters, rate_per_second=500)
    ProviderToken.objects.filter(pk=lane.token_id).update(hourly_allowance=2**31 - 1)
    for _ in range(2):  # the second adds to what the first has written
        fill(lane, 3)
        with all_tenants(atomic=True):
            allowances.correct(cursor(), {(lane.token_id, "calls"): said})
        work(Boasting(answering.url), seconds=2, until_empty=False)
        (over,) = left(lane)
        assert over >= 0
        AllowanceUse.objects.create(
            allowance=Allowance.objects.get(), tenant_id=1, slot=timezone.now(), spent=2**31 - 1
        )
    assert Run.objects.exclude(state="done").count() == 0
