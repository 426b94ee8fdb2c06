"""Whatever an application's code, a vendor's reply or the database makes of one flow stays with that flow."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection, transaction

from engine.models import FlowHold, Incident, Lane, Run
from engine.processor import Continue, Done, Failed
from engine.store.holds import release_flows
from tenants.models import ProviderToken, Tenant
from tenants.scope import all_tenants
from tests.engine.conftest import MakeLane
from tests.engine.queues import Letter, Letters, Sighting, Sweep, Sweeps, work
from tests.engine.vendor import Request, Vendor

GOOD = (200, {"id": "v"})
ROWS = 40


class Spoiled(Letters):
    """Raises where it is told to, over rows of one tenant."""

    where = ""

    def trouble(self, where: str, requests: Any) -> None:
        if where == self.where and any(r.columns["to"].startswith("odd") for r in requests):
            raise KeyError("a template that nobody thought of")

    def prepare(self, requests: Any) -> Any:
        self.trouble("prepare", requests)
        return {}

    def plan(self, lane: Any, request: Any) -> Any:
        self.trouble("plan", [request])
        return super().plan(lane, request)

    def interpret(self, lane: Any, request: Any, response: Any) -> Any:
        self.trouble("interpret", [request])
        return super().interpret(lane, request, response)

    def usage(self, reply: Any) -> Any:
        if self.where == "usage" and b"odd" in reply.body:
            raise KeyError("a header that nobody thought of")

    def learn(self, settled: Any) -> int:
        self.trouble("learn", [request for request, _ in settled])
        return super().learn(settled)


@pytest.fixture
def crowd(make_lane: MakeLane) -> Callable[..., Lane]:
    """One lane, three tenants: one of them odd."""

    def make(processor: type[Letters] = Letters) -> Lane:
        lane = make_lane(processor, rate_per_second=500)
        others = [Tenant.objects.create(name=f"t {n}", slug=f"t-{n}") for n in range(2)]
        for tenant, name in ((lane.tenant, "odd"), (others[0], "ann"), (others[1], "bob")):
            Letter.objects.bulk_create(Letter(tenant=tenant, lane=lane, to=f"{name}{n}") for n in range(ROWS))
        return lane

    return make


WHERE = {"prepare": "queued", "plan": "queued", "interpret": "in_doubt", "learn": "done"}


def test_usage_that_cannot_be_read_leaves_what_was_accepted_accepted(
    crowd: Callable[..., Lane], vendor: Vendor
) -> None:
    crowd()
    vendor.answer = lambda request: (200, {"id": request.body["to"]})
    processor = Spoiled(vendor.url)
    processor.where = "usage"

    work(processor)

    assert not Letter.objects.filter(state="in_doubt").exists()
    assert set(Letter.objects.exclude(to__startswith="odd").values_list("state", flat=True)) == {"done"}
    sent = {request.body["to"] for request in vendor.requests}
    assert set(Letter.objects.filter(state="done").values_list("to", flat=True)) == sent
    assert "nobody thought of" in FlowHold.objects.get().detail


@pytest.mark.parametrize(("where", "becomes"), WHERE.items(), ids=WHERE.keys())
def test_what_our_own_code_raises_holds_its_flow_and_no_other(
    crowd: Callable[..., Lane], vendor: Vendor, where: str, becomes: str
) -> None:
    lane = crowd()
    vendor.answer = lambda _: GOOD
    processor = Spoiled(vendor.url)
    processor.where = where

    report = work(processor)

    others = Letter.objects.exclude(to__startswith="odd")
    assert set(others.values_list("state", flat=True)) == {"done"}, "the others' rows are all sent"
    odd = Letter.objects.filter(to__startswith="odd").values_list("state", flat=True)
    assert set(odd) <= {"queued", becomes}
    assert "queued" in odd, "the rest of the odd flow waits"
    if where in ("prepare", "plan"):
        assert [r.path for r in vendor.requests if r.body is None] == []
        assert not any(r.body["to"].startswith("odd") for r in vendor.requests)
    hold = FlowHold.objects.get()
    assert (hold.flow, hold.tenant_id, hold.reason) == (lane.tenant_id, lane.tenant_id, "fault")
    assert "nobody thought of" in hold.detail
    incident = Incident.objects.get(kind="fault")
    assert (incident.tenant_id, incident.ended_at) == (lane.tenant_id, None)
    assert Run.objects.get().state == "done", "the run goes on and ends in order"
    assert report.remaining == 0, "what is held is not waited for"

    processor.where = ""
    assert work(processor).claimed == 0, "held until a person says so"
    release_flows(processor="letters", flows=[hold.flow])
    work(processor)
    assert set(Letter.objects.values_list("state", flat=True)) <= {"done", "in_doubt"}
    assert Incident.objects.get(kind="fault").ended_at is not None


def test_a_read_whose_facts_cannot_be_learnt_is_made_again(make_lane: MakeLane, vendor: Vendor) -> None:
    """What a page taught is not lost by moving on to the next one."""

    class Forgetful(Sweeps):
        broken = True

        def learn(self, settled: Any) -> int:
            if self.broken and any(isinstance(outcome, Continue | Done) for _, outcome in settled):
                raise RuntimeError("no such table")
            return super().learn(settled)

    lane = make_lane(Sweeps)
    Sweep.objects.create(tenant=lane.tenant, lane=lane, post="a")
    vendor.answer = lambda r: (
        200,
        {"people": [f"p{r.path[-1]}"], "next": "" if r.path.endswith("2") else "2"},
    )
    processor = Forgetful(vendor.url)

    work(processor)
    assert (Sweep.objects.get().state, Sweep.objects.get().cursor) == ("queued", "")
    assert not Sighting.objects.exists()

    processor.broken = False
    release_flows(processor="sweeps", flows=[lane.tenant_id or 0])
    work(processor)
    assert Sweep.objects.get().state == "done"
    assert Sighting.objects.count() == 2


ODD = {"a NUL": "v\0", "too long": "v" * 200, "no text": {"an": "object"}}


@pytest.mark.parametrize("said", ODD.values(), ids=ODD.keys())
def test_a_reply_that_no_column_takes_is_that_rows_alone(
    crowd: Callable[..., Lane], vendor: Vendor, said: Any
) -> None:
    crowd()

    class Trusting(Letters):
        """Cleans nothing, as a careless provider would."""

        def interpret(self, lane: Any, request: Any, response: Any) -> Any:
            return Done({"vendor_id": said if request.columns["to"] == "odd7" else "v"})

    vendor.answer = lambda _: GOOD

    report = work(Trusting(vendor.url))

    odd = Letter.objects.get(to="odd7")
    if odd.state != "done":  # an object has a text of its own, and that fits
        assert (odd.state, odd.error_code) == ("in_doubt", "unstorable")
        assert report.in_doubt == 1
    assert set(Letter.objects.exclude(pk=odd.pk).values_list("state", flat=True)) == {"done"}
    assert not FlowHold.objects.exists(), "the vendor's reply is no fault of the flow's"
    assert Run.objects.get().state == "done"


def test_a_secret_that_no_key_opens_stops_the_lanes_on_it_and_no_other(
    make_lane: MakeLane, vendor: Vendor
) -> None:
    bad, good = make_lane(Letters, "bad"), make_lane(Letters, "good")
    for lane in (bad, good):
        Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, to=f"p{n}") for n in range(20))
    ProviderToken.objects.filter(pk=bad.token_id).update(sealed_secret="x")
    vendor.answer = lambda _: GOOD

    for _ in range(2):
        work(Letters(vendor.url))

    bad.refresh_from_db()
    assert (bad.pause_reason, bad.token.state) == ("token", "failing")
    assert Letter.objects.filter(lane=good, state="done").count() == 20
    assert Letter.objects.filter(lane=bad, state="queued").count() == 20
    assert Incident.objects.get(kind="token").tenant_id == bad.tenant_id
    assert set(Run.objects.values_list("state", flat=True)) == {"done"}


def test_a_row_that_somebody_holds_keeps_nobody_else_waiting(
    crowd: Callable[..., Lane], vendor: Vendor
) -> None:
    """An application's code wants a row that a person holds: the other flows are settled meanwhile."""
    lane = crowd()
    hold, release = threading.Event(), threading.Event()

    class Waiting(Letters):
        def learn(self, settled: Any) -> int:
            if any(request.flow == lane.tenant_id for request, _ in settled):
                Tenant.objects.select_for_update().get(pk=lane.tenant_id or 0)
            if not Letter.objects.exclude(to__startswith="odd").exclude(state="done").exists():
                release.set()  # the others are done while the row is still held
            return 0

    def holder() -> None:
        try:
            with all_tenants(atomic=True):
                Tenant.objects.select_for_update().get(pk=lane.tenant_id or 0)
                hold.set()
                release.wait(20)
        finally:
            connection.close()

    thread = threading.Thread(target=holder)
    thread.start()
    hold.wait(5)
    vendor.answer = lambda _: GOOD

    report = work(Waiting(vendor.url))

    thread.join(25)
    assert release.is_set()
    assert (report.done, report.in_doubt) == (3 * ROWS, 0)
    assert set(Letter.objects.values_list("state", flat=True)) == {"done"}


def test_a_deadlock_is_done_again_and_loses_nothing(crowd: Callable[..., Lane], vendor: Vendor) -> None:
    """Somebody locks our rows against our order, again and again."""
    crowd()
    stop = threading.Event()
    met = []

    def adversary() -> None:
        with all_tenants():
            ids = list(Letter.objects.order_by("-pk").values_list("pk", flat=True))
            while not stop.is_set():
                try:
                    with transaction.atomic():
                        for pk in ids[::7]:
                            Letter.objects.select_for_update().filter(pk=pk).first()
                except Exception as error:  # noqa: BLE001 - he loses some of them himself
                    met.append(error)
        connection.close()

    thread = threading.Thread(target=adversary)
    thread.start()
    vendor.answer = lambda _: GOOD
    try:
        report = work(Letters(vendor.url), seconds=60)
    finally:
        stop.set()
        thread.join(20)

    assert (report.done, report.in_doubt) == (3 * ROWS, 0)
    assert Run.objects.get().state == "done"


def test_a_connection_that_is_cut_again_and_again_loses_no_outcome(
    crowd: Callable[..., Lane], vendor: Vendor
) -> None:
    crowd()
    stop = threading.Event()
    cut: list[int] = []

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        ours = cursor.fetchone()[0]

    def cutter() -> None:
        with connection.cursor() as cursor:
            while not stop.wait(0.12):
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database()"
                    " AND backend_type = 'client backend' AND pid NOT IN (pg_backend_pid(), %s)",
                    [ours],
                )
                cut.extend(row[0] for row in cursor.fetchall())
        connection.close()

    def answer(_: Request) -> tuple[int, Any]:
        stop.wait(0.01)
        return GOOD

    thread = threading.Thread(target=cutter)
    thread.start()
    vendor.answer = answer
    try:
        report = work(Letters(vendor.url), seconds=60)
    finally:
        stop.set()
        thread.join(10)

    assert len(cut) >= 3, "it was cut"
    states = set(Letter.objects.values_list("state", flat=True))
    assert states == {"done"}
    assert len(vendor.requests) == len({r.body["to"] for r in vendor.requests}) == 3 * ROWS
    assert report.in_doubt == 0
    assert Run.objects.get().state == "done"


def test_an_honest_not_found_is_no_failure_of_the_vendors(make_lane: MakeLane, vendor: Vendor) -> None:
    class Honest(Letters):
        honest = frozenset({"400"})

        def interpret(self, lane: Any, request: Any, response: Any) -> Any:
            return Failed("400", "no such person")

    lane = make_lane(Letters)
    Letter.objects.create(tenant=lane.tenant, lane=lane, to="ann")
    vendor.answer = lambda _: (400, {})

    report = work(Honest(vendor.url))

    assert (report.done, report.failed) == (1, 0)
    assert Letter.objects.get().state == "failed"
