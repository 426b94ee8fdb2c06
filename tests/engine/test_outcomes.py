"""What each outcome does to its row and its lane: the table of `store.outcomes`, seen through the runner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from django.utils import timezone

from engine.models import Lane
from engine.run.runner import Runner
from tests.engine.conftest import MakeLane
from tests.engine.queues import Letter, Letters
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

    report = Runner(Letters(vendor.url)).run(seconds=20, until_empty=True)

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

    Runner(Letters(vendor.url)).run(seconds=20, until_empty=True)

    assert len({request.body["attempt"] for request in vendor.requests}) == 2


def test_throttling_slows_the_lane_down(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Letters, rate_per_second=100)
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=f"p{n}") for n in range(5))
    answers = iter([(429, {}), *[GOOD] * 10])
    vendor.answer = lambda _: next(answers)

    report = Runner(Letters(vendor.url)).run(seconds=20, until_empty=True)

    lane.refresh_from_db()
    assert report.done == 5
    assert lane.rate_now is not None
    assert 50 <= lane.rate_now < 100, "halved, and growing back a little each second"
    assert lane.rate_per_second == 100


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

    report = Runner(processor).run(seconds=20, until_empty=True)

    assert set(Lane.objects.filter(paused_at__isnull=False)) == {first, second}
    assert Letter.objects.filter(lane=other, state="done").count() == 200
    assert Letter.objects.filter(lane=first, state="queued", attempts=0).count() == 200, (
        "none is lost, none used up"
    )
    assert not Letter.objects.filter(state__in=["claimed", "sending"]).exists()
    assert report.held == len([r for r in vendor.requests if r.path == "/first/send"])
    assert {item.lane_id for item, _ in processor.attended} == {first.id}, (
        "the processor is told of each hold"
    )


def test_a_held_flow_stops_and_the_lanes_other_flows_go_on(make_lane: MakeLane, vendor: Vendor) -> None:
    """A flow is a tenant here; the lane is shared, as a platform's own account is."""
    lane = make_lane(Letters, rate_per_second=200)
    neighbour = make_lane(Letters, "neighbour")
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=f"held{n}") for n in range(100))
    Letter.objects.bulk_create(Letter(tenant=neighbour.tenant, lane=lane, to=f"free{n}") for n in range(100))

    class Stoppable(Letters):
        runnable = "{flow} NOT IN (SELECT scope::bigint FROM engine_incident WHERE kind = 'held')"

        def attend(self, settled: Any) -> None:
            from engine.watch.incidents import open_incident

            for item, _ in settled:
                open_incident(tenant_id=None, kind="held", scope=str(item.flow), summary="held")

    vendor.answer = lambda r: (409, {}) if r.body["to"].startswith("held") else GOOD

    Runner(Stoppable(vendor.url)).run(seconds=20, until_empty=True)

    assert Letter.objects.filter(to__startswith="free", state="done").count() == 100
    assert Letter.objects.filter(to__startswith="held", state="queued").count() == 100
    held_calls = [r for r in vendor.requests if r.body["to"].startswith("held")]
    assert len(held_calls) <= 60, "at most the slice that had left, not the whole flow"
    lane.refresh_from_db()
    assert lane.paused_at is None


def test_a_vendor_that_cannot_be_reached_rests_the_lane(make_lane: MakeLane) -> None:
    lane = make_lane(Letters, rate_per_second=100)
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=f"p{n}") for n in range(100))

    report = Runner(Letters("http://127.0.0.1:9")).run(seconds=2)

    lane.refresh_from_db()
    assert lane.breaker == "open"
    assert lane.open_until is not None
    assert lane.open_until > timezone.now()
    assert "failed in a row" in lane.last_error
    assert report.calls < 60, "it does not use up everybody's attempts"
    assert report.remaining == 100


def test_a_row_that_cannot_be_planned_fails_alone(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Letters, rate_per_second=100)
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=to) for to in ("ann", "bad", "cyd"))

    class Picky(Letters):
        def plan(self, lane: Any, items: Any) -> Any:
            if any(item.columns["to"] == "bad" for item in items):
                raise ValueError("no such template variable")
            return super().plan(lane, items)

    vendor.answer = lambda _: GOOD

    report = Runner(Picky(vendor.url)).run(seconds=20, until_empty=True)

    assert (report.done, report.failed) == (2, 1)
    bad = Letter.objects.get(to="bad")
    assert (bad.state, bad.error_code) == ("failed", "unplannable")
    assert "no such template variable" in bad.error_detail


def test_a_reply_that_breaks_the_processor_leaves_the_row_in_doubt(
    make_lane: MakeLane, vendor: Vendor
) -> None:
    lane = make_lane(Letters)
    Letter.objects.create(tenant=lane.tenant, lane=lane, to="ann")

    class Broken(Letters):
        def interpret(self, planned: Any, response: Any) -> Any:
            raise KeyError("messages")

    vendor.answer = lambda _: GOOD

    report = Runner(Broken(vendor.url)).run(seconds=20, until_empty=True)

    assert (report.in_doubt, len(vendor.requests)) == (1, 1)
    assert Letter.objects.get().state == "in_doubt"
