"""The three kinds of call, driven by the same runner."""

from __future__ import annotations

from engine.models import Run
from engine.run.runner import Runner
from engine.store.attempts import row_of
from tests.engine.conftest import MakeLane
from tests.engine.queues import Check, Checks, Export, Exports, Letter, Letters
from tests.engine.vendor import Request, Vendor


def test_a_message_is_one_call_and_keeps_the_vendors_id(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Letters, rate_per_second=1000)
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=f"p{n}") for n in range(300))
    vendor.answer = lambda request: (200, {"id": f"id-{request.body['to']}"})

    report = Runner(Letters(vendor.url)).run(seconds=20, until_empty=True)

    assert (report.claimed, report.done, report.remaining) == (300, 300, 0)
    assert sorted(r.body["to"] for r in vendor.requests) == sorted(f"p{n}" for n in range(300))
    assert all(letter.vendor_id == f"id-{letter.to}" for letter in Letter.objects.all())
    assert set(Letter.objects.values_list("state", "attempts")) == {("done", 1)}
    from uuid import UUID

    by_person = dict(Letter.objects.values_list("to", "id"))
    assert all(row_of(UUID(r.body["attempt"])) == by_person[r.body["to"]] for r in vendor.requests)
    run = Run.objects.get()
    assert (run.state, run.claimed, run.done, run.calls, run.queue_before, run.queue_after) == (
        "done",
        300,
        300,
        300,
        300,
        0,
    )


def test_a_page_settles_everybody_on_it(make_lane: MakeLane, vendor: Vendor) -> None:
    lane = make_lane(Checks, allowance=200)
    people = {post: [f"{post}-{n}" for n in range(120)] for post in ("a", "b")}
    Check.objects.bulk_create(
        Check(tenant=lane.tenant, lane=lane, post=post, person=person)
        for post, theirs in people.items()
        for person in [*theirs[:90], f"{post}-absent"]
    )

    def pages(request: Request) -> tuple[int, object]:
        post, page = request.path.split("/")[1], int(request.path.partition("after=")[2] or 1)
        shown = people[post][(page - 1) * 50 : page * 50]
        return 200, {"people": shown, "number": page, "next": str(page + 1) if page < 3 else ""}

    vendor.answer = pages

    report = Runner(Checks(vendor.url)).run(seconds=20, until_empty=True)

    assert (report.claimed, report.done, report.failed) == (182, 180, 2)
    assert report.calls == len(vendor.requests) <= 12, (
        "three pages a post, and a claim may split a post in two"
    )
    assert Check.objects.get(person="a-0").proof == "page 1"
    assert Check.objects.get(person="b-60").proof == "page 2"
    assert Check.objects.get(person="a-absent").error_code == "not found"
    lane.refresh_from_db()
    assert lane.used == report.calls, "every call, further pages included, is taken from the allowance"


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

    report = Runner(Exports(vendor.url)).run(seconds=20, until_empty=True)

    assert [r.path for r in vendor.requests] == ["/start", "/runs/run-1", "/runs/run-1", "/runs/run-1"]
    assert (report.done, report.continued) == (1, 3)
    row = Export.objects.get()
    assert (row.state, row.result, row.attempts) == ("done", "finished", 1)


def test_a_run_that_may_have_been_started_is_looked_for_first(make_lane: MakeLane, vendor: Vendor) -> None:
    """The answer to the start was lost, as a crash loses it: the attempt names it at the vendor."""
    lane = make_lane(Exports)
    Export.objects.create(tenant=lane.tenant, lane=lane, what="views")
    started: list[str] = []

    def answer(request: Request) -> tuple[int, object] | None:
        if request.path == "/start":
            started.append(request.body["attempt"])
            return None
        if request.path == "/find":
            return 200, {"id": "run-1" if request.body["attempt"] in started else ""}
        return 200, {"state": "finished"}

    vendor.answer = answer

    Runner(Exports(vendor.url)).run(seconds=20, until_empty=True)

    assert [r.path for r in vendor.requests] == ["/start", "/find", "/runs/run-1"]
    assert Export.objects.get().state == "done"
