"""Leases and fences: a lane has one holder, and whoever lost it can neither take rows nor let one leave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone

from engine.actions import pause_lane, recover_lanes, resume_lane
from engine.models import Lane, Run
from engine.processor import registry
from engine.store import leases
from engine.store.attempts import new_attempt
from engine.store.claims import Claims, Want
from engine.store.leases import Pace
from engine.store.recovery import free_dead
from engine.store.session import cursor
from engine.store.settlements import Settle, Settlement
from tenants.errors import ActionRefused
from tenants.scope import all_tenants
from tests.engine.conftest import MakeLane
from tests.engine.queues import Export, Exports, Letter, Letters, work
from tests.engine.vendor import Vendor

LETTERS = Letters("http://unused.invalid")
PACE = Pace(None, None, False, 0)


@pytest.fixture
def registered() -> Iterator[Callable[[Letters], None]]:
    """Register a processor for one test."""
    yield registry.register_processor
    registry._workers.pop("letters", None)
    registry._processors.pop("letters", None)


def want(lane: Lane, rows: int) -> Want:
    return Want(lane.pk, lane.tenant_id or 0, rows)


def in_another_connection(work: Callable[[], Any]) -> Any:
    """Run `work` in a thread, and so on a connection of its own."""
    result: list[Any] = []

    def thread() -> None:
        try:
            with all_tenants(), transaction.atomic():
                result.append(work())
        finally:
            connection.close()

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join(10)
    return result[0]


def take(lane: Lane, run: int) -> list[leases.Leased]:
    return leases.acquire(cursor(), processor=lane.processor, run=run, lane_ids=[lane.pk], most=10)


def acquire(lane: Lane, run: int) -> list[leases.Leased]:
    with transaction.atomic():
        return take(lane, run)


def letters(lane: Lane, n: int, **fields: Any) -> list[Letter]:
    return Letter.objects.bulk_create(
        Letter(tenant=lane.tenant, lane=lane, to=f"p{i}", **fields) for i in range(n)
    )


def expire(lane: Lane) -> None:
    Lane.objects.filter(pk=lane.pk).update(leased_until=timezone.now() - timedelta(seconds=1))


def test_a_lane_is_taken_by_one_run_at_a_time(make_lane: MakeLane) -> None:
    lane = make_lane(Letters)
    assert [leased.row.id for leased in acquire(lane, run=1)] == [lane.pk]
    assert in_another_connection(lambda: take(lane, 2)) == []


def test_a_lane_that_somebody_is_taking_is_skipped_not_waited_for(make_lane: MakeLane) -> None:
    lane = make_lane(Letters)
    with transaction.atomic():
        assert take(lane, 1)
        assert in_another_connection(lambda: take(lane, 2)) == []


@pytest.mark.parametrize(
    ("fields", "free"),
    [
        ({}, True),
        ({"paused_at": timezone.now()}, False),
        ({"open_until": timezone.now() + timedelta(hours=1)}, False),
        ({"open_until": timezone.now() - timedelta(hours=1)}, True),
    ],
    ids=["plain", "paused", "breaker open", "breaker over"],
)
def test_only_a_lane_that_nothing_holds_back_is_taken(
    make_lane: MakeLane, fields: dict[str, Any], free: bool
) -> None:
    assert bool(acquire(make_lane(Letters, **fields), run=1)) is free


def test_whoever_lost_its_lane_is_told_so(make_lane: MakeLane) -> None:
    lane = make_lane(Letters)
    acquire(lane, run=1)
    expire(lane)
    with transaction.atomic():
        assert leases.free_expired(cursor(), processor="letters") == {lane.pk: 1}
    assert [leased.row.id for leased in acquire(lane, run=2)] == [lane.pk]
    with transaction.atomic():
        leases.renew(cursor(), run=1, paces={lane.pk: PACE})
        assert leases.read(cursor(), run=1, lane_ids=[lane.pk]) == []
        leases.renew(cursor(), run=2, paces={lane.pk: PACE})
        assert [row.id for row in leases.read(cursor(), run=2, lane_ids=[lane.pk])] == [lane.pk]


def test_a_run_that_lost_its_lane_takes_no_rows_and_lets_none_leave(make_lane: MakeLane) -> None:
    lane = make_lane(Letters)
    letters(lane, 4)
    claims = Claims(LETTERS)
    acquire(lane, run=1)
    with transaction.atomic():
        items = claims.claim(cursor(), run=1, wanted=[want(lane, 2)])
    assert len(items) == 2
    expire(lane)

    with transaction.atomic():
        assert claims.claim(cursor(), run=1, wanted=[want(lane, 2)]) == []
        for item in items:
            item.attempt = new_attempt(item.id, 1)
        assert claims.mark(cursor(), run=1, requests=items) == set()


def test_rows_that_another_run_took_meanwhile_are_left_alone_and_reported(make_lane: MakeLane) -> None:
    lane = make_lane(Letters)
    (letter,) = letters(lane, 1)
    claims = Claims(LETTERS)
    acquire(lane, run=1)
    with transaction.atomic():
        (old,) = claims.claim(cursor(), run=1, wanted=[want(lane, 1)])
    expire(lane)
    free_dead_letters()
    acquire(lane, run=2)
    with transaction.atomic():
        claims.claim(cursor(), run=2, wanted=[want(lane, 1)])
        assert Settle(LETTERS).write(cursor(), run=1, settlements=[Settlement(letter.pk, "failed")]) == set()
        assert claims.give_back(cursor(), run=1, requests=[old]) == 0
    letter.refresh_from_db()
    assert (letter.state, letter.run) == ("claimed", 2)


def free_dead_letters() -> tuple[int, int]:
    with transaction.atomic():
        return free_dead(LETTERS)


def test_what_a_dead_run_claimed_goes_back_and_what_it_may_have_sent_is_in_doubt(make_lane: MakeLane) -> None:
    lane = make_lane(Letters)
    letters(lane, 3)
    claims = Claims(LETTERS)
    run = Run.objects.create(queue="letters", process="test:1", beat_at=timezone.now() - timedelta(minutes=1))
    acquire(lane, run=run.pk)
    with transaction.atomic():
        items = claims.claim(cursor(), run=run.pk, wanted=[want(lane, 2)])
        items[0].attempt = new_attempt(items[0].id, 1)
        assert claims.mark(cursor(), run=run.pk, requests=items[:1]) == {items[0].id}
    assert free_dead_letters() == (0, 0), "not while the lease lasts"
    expire(lane)

    assert free_dead_letters() == (1, 1)

    assert sorted(Letter.objects.values_list("state", flat=True)) == ["in_doubt", "queued", "queued"]
    run.refresh_from_db()
    assert (run.state, run.ended_at is not None) == ("lost", True)
    lane.refresh_from_db()
    assert lane.holder is None


def test_a_late_answer_settles_a_row_in_doubt_for_it_was_never_sent_again(make_lane: MakeLane) -> None:
    lane = make_lane(Letters)
    (letter,) = letters(lane, 1)
    claims = Claims(LETTERS)
    acquire(lane, run=1)
    with transaction.atomic():
        (item,) = claims.claim(cursor(), run=1, wanted=[want(lane, 1)])
        item.attempt = new_attempt(item.id, 1)
        claims.mark(cursor(), run=1, requests=[item])
    expire(lane)
    free_dead_letters()
    with transaction.atomic():
        done = Settlement(letter.pk, "done", attempts=1, fields={"vendor_id": "v7"})
        assert Settle(LETTERS).write(cursor(), run=1, settlements=[done]) == {letter.pk}
    letter.refresh_from_db()
    assert (letter.state, letter.vendor_id) == ("done", "v7")


def test_a_row_that_a_webhook_decided_first_keeps_its_state_and_gains_what_only_the_answer_knows(
    make_lane: MakeLane,
) -> None:
    lane = make_lane(Letters)
    (letter,) = letters(lane, 1)
    claims = Claims(LETTERS)
    acquire(lane, run=1)
    with transaction.atomic():
        (item,) = claims.claim(cursor(), run=1, wanted=[want(lane, 1)])
        item.attempt = new_attempt(item.id, 1)
        claims.mark(cursor(), run=1, requests=[item])
    Letter.objects.filter(pk=letter.pk).update(state="delivered")
    done = Settlement(letter.pk, "done", attempts=1, fields={"vendor_id": "v7"})
    for _ in range(2):  # twice: the answer to a commit may be lost
        with transaction.atomic():
            assert Settle(LETTERS).write(cursor(), run=1, settlements=[done]) == set()
    letter.refresh_from_db()
    assert (letter.state, letter.vendor_id, letter.attempts) == ("delivered", "v7", 1)


def test_reads_and_beginnings_of_a_dead_run_go_back_to_the_queue(make_lane: MakeLane) -> None:
    exports = Exports("http://unused.invalid")
    lane = make_lane(Exports)
    export = Export.objects.create(
        tenant=lane.tenant, lane=lane, state="sending", run=1, attempt=new_attempt(1, 1)
    )
    Lane.objects.filter(pk=lane.pk).update(holder=1)
    expire(lane)
    with transaction.atomic():
        assert free_dead(exports) == (1, 0)
    kept = export.attempt
    export.refresh_from_db()
    assert (export.state, export.attempt) == ("queued", kept), (
        "its attempt is kept, to look for it at the vendor"
    )


def test_the_minutes_watch_frees_lanes_that_nobody_asks_for(
    make_lane: MakeLane, registered: Callable[[Letters], None]
) -> None:
    registered(LETTERS)
    lane = make_lane(Letters)
    letters(lane, 2, state="sending", run=1)
    Lane.objects.filter(pk=lane.pk).update(holder=1)
    expire(lane)
    assert recover_lanes() == (0, 2)


def test_the_minute_finds_rows_in_nobodys_hands(
    make_lane: MakeLane, registered: Callable[[Letters], None]
) -> None:
    """A commit that nobody acknowledged, a death between two: the lane is free, its rows are not."""
    registered(LETTERS)
    lane = make_lane(Letters)
    letters(lane, 2, state="claimed", run=1)
    letters(lane, 1, state="sending", run=1)
    assert recover_lanes() == (2, 1)
    assert Letter.objects.exclude(in_doubt_at=None).count() == 1, "the doubt has a beginning"


def test_the_minute_finds_what_a_dead_run_left_on_a_lane_that_another_holds(
    make_lane: MakeLane, registered: Callable[[Letters], None]
) -> None:
    """Somebody held the row while the lane changed hands, and the lane is never free again."""
    registered(LETTERS)
    lane = make_lane(Letters)
    letters(lane, 2, state="sending", run=1)
    letters(lane, 1, state="claimed", run=1)
    acquire(lane, run=2)
    (mine,) = letters(lane, 1, state="sending", run=2)

    assert recover_lanes() == (1, 2)

    mine.refresh_from_db()
    assert (mine.state, mine.run) == ("sending", 2)


def test_a_lane_taken_by_a_commit_that_nobody_acknowledged_is_taken_again(make_lane: MakeLane) -> None:
    lane = make_lane(Letters)
    acquire(lane, run=1)
    assert [leased.row.id for leased in acquire(lane, run=1)] == [lane.pk]
    assert acquire(lane, run=2) == []


def test_what_was_claimed_without_our_knowing_goes_back(make_lane: MakeLane) -> None:
    lane = make_lane(Letters)
    letters(lane, 3)
    claims = Claims(LETTERS)
    acquire(lane, run=1)
    with transaction.atomic():
        known, *_ = claims.claim(cursor(), run=1, wanted=[want(lane, 3)])
        assert claims.strays(cursor(), run=1, lanes=[lane.pk], known=[known.id]) == 2
    assert sorted(Letter.objects.values_list("state", flat=True)) == ["claimed", "queued", "queued"]


def test_a_paused_lane_sends_nothing_until_it_is_resumed(
    make_lane: MakeLane, vendor: Vendor, registered: Callable[[Letters], None]
) -> None:
    registered(Letters(vendor.url))
    lane = make_lane(Letters, rate_per_second=100)
    letters(lane, 3)
    vendor.answer = lambda _: (200, {"id": "v"})
    assert pause_lane(lane_id=lane.pk) == 1
    assert work(Letters(vendor.url), seconds=5).done == 0
    assert resume_lane(lane_id=lane.pk) == 1
    assert work(Letters(vendor.url), seconds=5).done == 3


def test_a_lane_with_a_dead_token_is_not_resumed(make_lane: MakeLane) -> None:
    lane = make_lane(Letters, paused_at=timezone.now(), pause_reason="token")
    lane.token.state = "revoked"
    lane.token.save()
    with pytest.raises(ActionRefused, match="revoked"):
        resume_lane(lane_id=lane.pk)
