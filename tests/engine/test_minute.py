"""The minute's watch: what nobody holds is found again, and no job of it keeps the others from running."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.utils import timezone

from engine.actions import recover_lanes
from engine.clock.tasks import watch
from engine.models import Heartbeat, Incident, Lane, Run
from engine.processor import registry
from engine.processor.registry import register_processor
from engine.store.attempts import new_attempt
from engine.watch import checks
from engine.watch.checks import Finding, watch_everything
from tests.engine.queues import Export, Exports, Letter, Letters, Sweep, Sweeps

MakeLane = Callable[..., Lane]
URL = "http://unused.invalid"
LONG_AGO = timezone.now() - timedelta(hours=1)


@pytest.fixture
def registered(queues: None) -> Iterator[None]:
    kinds = (Letters, Sweeps, Exports)
    for kind in kinds:
        register_processor(kind(URL))
    yield
    for kind in kinds:
        del registry._workers[kind.queue], registry._processors[kind.queue]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let these checks be all there are."""

    def register(**found: Callable[[], Iterable[Finding]]) -> None:
        monkeypatch.setattr(checks, "_checks", found)

    return register


def open_incidents(kind: str) -> list[str]:
    return sorted(Incident.objects.filter(kind=kind, ended_at=None).values_list("scope", flat=True))


def broken() -> Iterable[Finding]:
    raise ValueError("one tenant's odd row")


def away() -> Iterable[Finding]:
    return [Finding("a", "something is wrong")]


# -- rows and lanes


STRANDED = [(Letters, Letter, "in_doubt"), (Sweeps, Sweep, "queued"), (Exports, Export, "queued")]


@pytest.mark.parametrize(("kind", "model", "sent"), STRANDED, ids=lambda of: getattr(of, "queue", ""))
def test_rows_in_hand_on_a_lane_that_nobody_holds_are_found_again(
    kind: Any, model: Any, sent: str, registered: None, make_lane: MakeLane
) -> None:
    """As a claim leaves them whose commit's acknowledgement was lost: its runner never knew of them."""
    lane = make_lane(kind)
    claimed = model.objects.create(tenant=lane.tenant, lane=lane, state="claimed", run=1)
    sending = model.objects.create(
        tenant=lane.tenant, lane=lane, state="sending", run=1, attempt=new_attempt(1, 1)
    )
    recover_lanes()
    claimed.refresh_from_db()
    sending.refresh_from_db()
    assert (claimed.state, claimed.run) == ("queued", None)
    assert sending.state == sent


def test_rows_of_a_lane_that_somebody_holds_are_left_alone(registered: None, make_lane: MakeLane) -> None:
    held = make_lane(Letters, holder=7, leased_until=timezone.now() + timedelta(minutes=1))
    letter = Letter.objects.create(tenant=held.tenant, lane=held, state="claimed", run=7)
    assert recover_lanes() == (0, 0)
    letter.refresh_from_db()
    assert letter.state == "claimed"


def test_a_processor_that_raises_keeps_no_other_from_being_recovered(
    registered: None, make_lane: MakeLane, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = make_lane(Letters, holder=1, leased_until=LONG_AGO)
    letter = Letter.objects.create(tenant=lane.tenant, lane=lane, state="claimed", run=1)
    with monkeypatch.context() as patch:
        patch.setattr(Export._meta, "db_table", "no_such_table")  # `exports` comes before `letters`
        recover_lanes()
    letter.refresh_from_db()
    assert letter.state == "queued"
    assert open_incidents("watch") == ["recover:exports"]
    recover_lanes()
    assert open_incidents("watch") == []


def test_a_breaker_on_an_idle_lane_is_half_open_once_its_rest_is_over(
    registered: None, make_lane: MakeLane
) -> None:
    soon = timezone.now() + timedelta(minutes=5)
    over = make_lane(Letters, "over", breaker="open", open_until=LONG_AGO, openings=2)
    asked = make_lane(Letters, "asked by the vendor to rest", breaker="open", open_until=LONG_AGO)
    rests = make_lane(Letters, "rests", breaker="open", open_until=soon)
    held = make_lane(Letters, "held", breaker="open", open_until=LONG_AGO, holder=1, leased_until=soon)
    watch()
    states = dict(Lane.objects.values_list("pk", "breaker"))
    assert states == {over.pk: "half_open", asked.pk: "closed", rests.pk: "open", held.pk: "open"}


# -- runs


def a_run(**fields: Any) -> Run:
    values: dict[str, Any] = {"queue": "letters", "process": "gone:1", "beat_at": LONG_AGO, "done": 7}
    return Run.objects.create(**values | fields)


def test_a_run_whose_process_died_holding_nothing_is_closed_as_lost(registered: None) -> None:
    dead = [a_run(), a_run(queue="events")]
    watch()
    for run in dead:
        run.refresh_from_db()
        assert run.state == Run.State.LOST
        assert run.ended_at is not None
        assert run.done == 7
        assert "died" in run.error


def test_a_run_that_beats_or_holds_a_lane_is_not_closed(registered: None, make_lane: MakeLane) -> None:
    beats = a_run(beat_at=timezone.now())
    holds = a_run()
    make_lane(Letters, holder=holds.pk, leased_until=timezone.now() + timedelta(minutes=1))
    ended = a_run(state="done", ended_at=LONG_AGO)
    watch()
    assert dict(Run.objects.values_list("pk", "state")) == {
        beats.pk: "running",
        holds.pk: "running",
        ended.pk: "done",
    }


# -- checks


def test_a_check_that_raises_keeps_no_other_from_running(queues: None, register: Any) -> None:
    register(first=broken, second=away)
    watch_everything()
    assert open_incidents("second") == ["a"]
    assert open_incidents("watch") == ["check:first"]


def test_a_check_that_works_again_ends_its_incident(queues: None, register: Any) -> None:
    register(first=broken)
    watch_everything()
    register(first=away)
    watch_everything()
    assert open_incidents("watch") == []
    assert open_incidents("first") == ["a"]


def test_a_check_that_raises_ends_none_of_the_incidents_it_opened(queues: None, register: Any) -> None:
    register(first=away)
    watch_everything()
    register(first=broken)
    watch_everything()
    assert open_incidents("first") == ["a"], "nobody has measured that it is over"


def test_a_statement_that_fails_in_a_check_spoils_no_other(queues: None, register: Any) -> None:
    register(first=lambda: list(Run.objects.extra(where=["no_such_column"])), second=away)
    watch_everything()
    assert open_incidents("second") == ["a"]


JOBS = {"recovery": "recover_lanes", "checks": "watch_everything", "alerts": "tell_incidents"}


@pytest.mark.parametrize("job", JOBS)
def test_a_job_of_the_minute_that_raises_keeps_no_other_from_running(
    job: str, queues: None, register: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(second=away)
    told: list[int] = []
    monkeypatch.setattr("engine.clock.tasks.tell_incidents", partial(told.append, 1))

    def raises() -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(f"engine.clock.tasks.{JOBS[job]}", raises)
    watch()
    assert Heartbeat.objects.filter(cluster="turnout").exists()
    assert open_incidents("watch") == [job]
    assert job == "checks" or open_incidents("second") == ["a"]
    assert job == "alerts" or told
