"""The three kinds of request, driven by the same runner."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from engine.models import Run
from engine.processor import Continue, Done
from engine.store.attempts import row_of
from engine.store.claims import Claims
from engine.store.session import cursor
from tests.engine.conftest import MakeLane
from tests.engine.queues import Export, Exports, Letter, Letters, Sighting, Sweep, Sweeps, work
from tests.engine.vendor import Request, Vendor


def test_a_message_is_one_call_and_keeps_the_vendors_id(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Letters, rate_per_second=1000)
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=f"p{n}") for n in range(300))
    vendor.answer = lambda request: (200, {"id": f"id-{request.body['to']}"})
    processor = Letters(vendor.url)

    report = work(processor)

    assert (report.claimed, report.done, report.remaining) == (300, 300, 0)
    assert sorted(r.body["to"] for r in vendor.requests) == sorted(f"p{n}" for n in range(300))
    assert all(letter.vendor_id == f"id-{letter.to}" for letter in Letter.objects.all())
    assert set(Letter.objects.values_list("state", "attempts")) == {("done", 1)}
    by_person = dict(Letter.objects.values_list("to", "id"))
    assert all(row_of(UUID(r.body["attempt"])) == by_person[r.body["to"]] for r in vendor.requests)
    assert len(processor.learnt) == 300, "what is done is told as well"
    run = Run.objects.get()
    counted = (run.state, run.processor, run.claimed, run.done, run.calls, run.queue_before, run.queue_after)
    assert counted == ("done", "letters", 300, 300, 300, 300, 0)


def pages(people: dict[str, list[str]], size: int = 50) -> Any:
    """Answer `/post/comments?after=N` page by page."""

    def answer(request: Request) -> tuple[int, object]:
        post, page = request.path.split("/")[1], int(request.path.partition("after=")[2] or 1)
        shown = people[post][(page - 1) * size : page * size]
        return 200, {"people": shown, "next": str(page + 1) if page * size < len(people[post]) else ""}

    return answer


def test_a_post_is_read_page_by_page_and_every_page_is_learnt(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Sweeps)
    people = {post: [f"{post}-{n}" for n in range(120)] for post in ("a", "b")}
    for post in people:
        Sweep.objects.create(tenant=lane.tenant, lane=lane, post=post)
    vendor.answer = pages(people)

    report = work(Sweeps(vendor.url))

    assert (report.done, report.continued, report.calls) == (2, 4, 6), "three pages a post, one call each"
    assert (report.facts, report.decided) == (240, 240)
    assert set(Sighting.objects.values_list("post", "person")) == {(p, x) for p in people for x in people[p]}
    assert set(Sweep.objects.values_list("state", "pages", "attempts")) == {("done", 3, 1)}


def test_a_sweep_that_was_cut_off_goes_on_where_it_was(make_lane: MakeLane, vendor: Vendor) -> None:
    """A crash between two pages costs nothing: the cursor is in the row."""
    lane = make_lane(Sweeps)
    Sweep.objects.create(tenant=lane.tenant, lane=lane, post="a", cursor="2", pages=1)
    vendor.answer = pages({"a": [f"a-{n}" for n in range(120)]})

    work(Sweeps(vendor.url))

    assert [r.path for r in vendor.requests] == ["/a/comments?after=2", "/a/comments?after=3"]
    assert Sweep.objects.get().pages == 3


def test_a_run_at_the_vendor_is_started_once_and_polled(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Exports)
    Export.objects.create(tenant=lane.tenant, lane=lane, what="views")
    polls = 0

    def answer(request: Request) -> tuple[int, object]:
        nonlocal polls
        if request.path == "/start":
            return 200, {"id": "run-1"}
        polls += 1
        return 200, {"state": "running" if polls < 3 else "finished"}

    vendor.answer = answer

    report = work(Exports(vendor.url))

    assert [r.path for r in vendor.requests] == ["/start", "/runs/run-1", "/runs/run-1", "/runs/run-1"]
    assert (report.done, report.continued) == (1, 3)
    row = Export.objects.get()
    assert (row.state, row.result, row.attempts) == ("done", "finished", 1)


@pytest.mark.parametrize("answer", [None, (429, {}), (402, {}), (503, {}), (200, "odd"), (500, {})])
def test_what_begins_something_paid_is_begun_once_whatever_answer_comes(
    make_lane: MakeLane, vendor: Vendor, answer: Any
) -> None:
    """The vendor starts the run and then says anything at all: it is looked for, not started again."""
    lane = make_lane(Exports)
    Export.objects.create(tenant=lane.tenant, lane=lane, what="views")
    started: list[str] = []

    def respond(request: Request) -> tuple[int, object] | None:
        if request.path == "/start":
            started.append(request.body["attempt"])
            return answer if answer is None or answer[0] != 200 else (200, None)
        if request.path == "/find":
            return 200, {"id": "run-1" if request.body["attempt"] in started else ""}
        return 200, {"state": "finished"}

    vendor.answer = respond

    work(Exports(vendor.url))

    assert [r.path for r in vendor.requests] == ["/start", "/find", "/runs/run-1"]
    assert len(started) == 1
    assert Export.objects.get().state == "done"


def test_what_the_vendor_never_got_is_begun_after_it_has_said_so(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Exports)
    Export.objects.create(tenant=lane.tenant, lane=lane, what="views")
    answers = iter([None, (200, {"id": ""}), (200, {"id": "run-2"}), (200, {"state": "finished"})])
    vendor.answer = lambda _: next(answers)

    work(Exports(vendor.url))

    assert [r.path for r in vendor.requests] == ["/start", "/find", "/start", "/runs/run-2"]
    first, looked, second = (r.body["attempt"] for r in vendor.requests[:3])
    assert first == looked != second, "a new beginning has a name of its own"


def test_a_recurring_request_is_done_and_due_again_with_fresh_attempts(
    make_lane: MakeLane, vendor: Vendor
) -> None:
    class Recurring(Letters):
        def interpret(self, lane: Any, request: Any, response: Any) -> Any:
            return Done({"vendor_id": "v"}, again=timedelta(hours=1))

    lane = make_lane(Letters)
    letter = Letter.objects.create(tenant=lane.tenant, lane=lane, to="ann", attempts=2)
    vendor.answer = lambda _: (200, {"id": "v"})

    report = work(Recurring(vendor.url))

    before = letter.due_at
    letter.refresh_from_db()
    assert (report.done, report.failed) == (1, 0)
    assert (letter.state, letter.attempts, letter.attempt, letter.vendor_id) == ("queued", 0, None, "v")
    assert letter.due_at > before + timedelta(minutes=59)


def test_a_nudge_while_a_request_is_in_hand_is_not_lost(make_lane: MakeLane, vendor: Vendor) -> None:
    """A webhook says that the vendor is finished while our own look at it is still on its way."""
    lane = make_lane(Exports)
    row = Export.objects.create(tenant=lane.tenant, lane=lane, what="views", external_id="run-1")

    class Patient(Exports):
        """Would look again in an hour, and hears from the vendor meanwhile."""

        looks = 0

        def prepare(self, requests: Any) -> Any:
            if not self.looks:
                assert Claims(self).nudge(cursor(), [request.id for request in requests]) == 1
            return {}

        def interpret(self, lane: Any, request: Any, response: Any) -> Any:
            self.looks += 1
            return Continue(after=timedelta(hours=1)) if self.looks == 1 else Done({"result": "finished"})

    vendor.answer = lambda _: (200, {})

    work(Patient(vendor.url))

    row.refresh_from_db()
    assert (row.state, row.result, row.nudged) == ("done", "finished", False)
    assert len(vendor.requests) == 2


def test_several_processors_share_a_queue_each_with_a_run_of_its_own(
    make_lane: MakeLane, vendor: Vendor
) -> None:
    class MoreLetters(Sweeps):
        queue = "letters"

    letters, sweeps = make_lane(Letters, "letters"), make_lane(MoreLetters, "sweeps")
    Letter.objects.create(tenant=letters.tenant, lane=letters, to="ann")
    Sweep.objects.create(tenant=sweeps.tenant, lane=sweeps, post="a")

    def answer(request: Request) -> tuple[int, object]:
        return 200, {"id": "v", "people": ["bob"], "next": ""}

    vendor.answer = answer

    report = work(Letters(vendor.url), MoreLetters(vendor.url))

    assert (report.queue, report.done) == ("letters", 2)
    assert Counter(Run.objects.values_list("processor", "done")) == {("letters", 1): 1, ("sweeps", 1): 1}
