"""What each outcome does to its row and its lane: the table of `store.outcomes`, seen through the runner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from django.utils import timezone

from engine.models import FlowHold, Incident, Lane
from engine.processor import Hold
from engine.store.holds import release_flows
from tests.engine.conftest import MakeLane
from tests.engine.queues import Letter, Letters, work
from tests.engine.vendor import Request, Vendor


@dataclass
class Case:
    """What the vendor answers, time after time, and what must come of it."""

    answers: list[tuple[int, Any] | None]
    row: dict[str, Any]
    report: dict[str, int]
    calls: int
    lane: dict[str, Any] = field(default_factory=dict)


GOOD = (200, {"id": "v1"})
CASES = {
    "done": Case([GOOD], {"state": "done", "attempts": 1, "vendor_id": "v1"}, {"done": 1}, 1),
    "retried, then done": Case(
        [(503, {}), GOOD], {"state": "done", "attempts": 2}, {"done": 1, "retried": 1}, 2
    ),
    "retried until it has failed": Case(
        [(503, {})] * 5,
        {"state": "failed", "attempts": 3, "error_code": "503"},
        {"failed": 1, "retried": 2},
        3,
    ),
    "throttled, at no attempt": Case(
        [(429, {}), (429, {}), GOOD], {"state": "done", "attempts": 1}, {"done": 1, "throttled": 2}, 3
    ),
    "failed for good": Case(
        [(400, {})], {"state": "failed", "attempts": 1, "error_code": "400"}, {"failed": 1}, 1
    ),
    "cut off, so in doubt, and never sent again": Case(
        [None, GOOD], {"state": "in_doubt", "attempts": 1}, {"in_doubt": 1}, 1
    ),
    "unreadable, so in doubt": Case([(200, {"no": "id"}), GOOD], {"state": "in_doubt"}, {"in_doubt": 1}, 1),
    "held with its lane": Case(
        [(401, {}), GOOD],
        {"state": "queued", "attempts": 0, "error_code": "401"},
        {"held": 1},
        1,
        {"pause_reason": "token", "holder": None},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_outcome_becomes_the_rows_state(make_lane: MakeLane, vendor: Vendor, case: Case) -> None:
    lane = make_lane(Letters, rate_per_second=100)
    letter = Letter.objects.create(tenant=lane.tenant, lane=lane, to="ann")
    answers = iter(case.answers)
    vendor.answer = lambda _: next(answers)

    report = work(Letters(vendor.url))

    letter.refresh_from_db()
    assert {name: getattr(letter, name) for name in case.row} == case.row
    assert {name: getattr(report, name) for name in case.report} == case.report
    assert len(vendor.requests) == case.calls
    lane.refresh_from_db()
    assert {name: getattr(lane, name) for name in case.lane} == case.lane
    assert lane.holder is None, "the lane is let go whatever happened"


def test_every_attempt_has_a_name_of_its_own(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Letters)
    Letter.objects.create(tenant=lane.tenant, lane=lane, to="ann")
    answers = iter([(503, {}), GOOD])
    vendor.answer = lambda _: next(answers)

    work(Letters(vendor.url))

    assert len({request.body["attempt"] for request in vendor.requests}) == 2


def test_a_stray_refusal_costs_the_lane_next_to_nothing(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Letters, rate_per_second=100)
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=f"p{n}") for n in range(5))
    answers = iter([(429, {}), *[GOOD] * 10])
    vendor.answer = lambda _: next(answers)

    report = work(Letters(vendor.url))

    lane.refresh_from_db()
    assert report.done == 5
    assert lane.grouped, "one refusal is weather: departures are arranged anew"
    assert lane.rate_now is not None
    assert 97 <= lane.rate_now <= 100, "and the rate gives way by next to nothing"
    assert (lane.rate_per_second, lane.refused_rate) == (100, None)


def test_a_dead_token_stops_every_lane_on_it_and_no_other(make_lane: MakeLane, vendor: Vendor) -> None:
    first = make_lane(Letters, "first", rate_per_second=50)
    second = make_lane(Letters, "second", rate_per_second=50, tenant=first.tenant, token=first.token)
    other = make_lane(Letters, "other", rate_per_second=50)
    for lane in (first, second, other):
        Letter.objects.bulk_create(
            Letter(tenant=lane.tenant, lane=lane, to=f"{lane.name}{n}") for n in range(200)
        )

    def answer(request: Request) -> tuple[int, Any]:
        return (401, {}) if request.path == "/first/send" else GOOD

    vendor.answer = answer
    processor = Letters(vendor.url)

    report = work(processor)

    assert set(Lane.objects.filter(paused_at__isnull=False)) == {first, second}
    assert Letter.objects.filter(lane=other, state="done").count() == 200
    assert Letter.objects.filter(lane=first, state="queued", attempts=0).count() == 200, (
        "none is lost, none used up"
    )
    assert not Letter.objects.filter(state__in=["claimed", "sending"]).exists()
    assert report.held == len([r for r in vendor.requests if r.path == "/first/send"])
    held = {request.lane_id for request, outcome in processor.learnt if isinstance(outcome, Hold)}
    assert held == {first.id}, "the processor is told of each hold"


def test_a_held_flow_stops_and_the_lanes_other_flows_go_on(make_lane: MakeLane, vendor: Vendor) -> None:
    """A flow is a tenant here; the lane is shared, as a platform's own account is."""
    lane = make_lane(Letters, rate_per_second=200)
    neighbour = make_lane(Letters, "neighbour")
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=f"held{n}") for n in range(100))
    Letter.objects.bulk_create(Letter(tenant=neighbour.tenant, lane=lane, to=f"free{n}") for n in range(100))

    vendor.answer = lambda r: (409, {}) if r.body["to"].startswith("held") else GOOD

    work(Letters(vendor.url))

    assert Letter.objects.filter(to__startswith="free", state="done").count() == 100
    assert Letter.objects.filter(to__startswith="held", state="queued").count() == 100
    held_calls = [r for r in vendor.requests if r.body["to"].startswith("held")]
    assert len(held_calls) <= 60, "at most the slice that had left, not the whole flow"
    lane.refresh_from_db()
    assert lane.paused_at is None
    assert list(FlowHold.objects.values_list("processor", "flow", "reason")) == [
        ("letters", lane.tenant_id, "template")
    ]
    assert Incident.objects.get(kind="flow_held").tenant_id == lane.tenant_id

    vendor.answer = lambda _: GOOD
    assert work(Letters(vendor.url)).claimed == 0, "not before a person says so"
    release_flows(processor="letters", flows=[lane.tenant_id or 0])
    assert work(Letters(vendor.url)).done == 100
    assert not Incident.objects.filter(ended_at=None).exists()


def test_a_vendor_that_cannot_be_reached_rests_the_lane(make_lane: MakeLane) -> None:
    lane = make_lane(Letters, rate_per_second=100)
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=f"p{n}") for n in range(100))

    report = work(Letters("http://127.0.0.1:9"), seconds=2, until_empty=False)

    lane.refresh_from_db()
    assert lane.breaker == "open"
    assert lane.open_until is not None
    assert lane.open_until > timezone.now()
    assert "cannot be reached" in lane.last_error
    assert report.calls < 60, "it does not use up everybody's attempts"
    assert report.remaining == 100
