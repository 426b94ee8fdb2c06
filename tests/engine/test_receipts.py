"""The `events` queue: how much is in hand at once, what a failure costs, and the run that tells of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connection
from django.utils.timezone import now
from django_q.exceptions import TimeoutException

from engine.inbox import receipts
from engine.inbox.group_commit import database_conninfo
from engine.inbox.receipts import MOST_ATTEMPTS, Receipts, Received, store
from engine.models import Receipt, Run
from engine.processor.counts import Counts
from engine.watch.runs import close_lost_runs
from tenants.models import Tenant
from tenants.scope import all_tenants

pytestmark = pytest.mark.django_db(transaction=True)

Apply = Callable[[Sequence[Received]], int]


@pytest.fixture
def apply_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[Apply], None]:
    """Let a function apply the webhooks of `vendor`."""
    return lambda apply: monkeypatch.setitem(receipts._appliers, "vendor", apply)


def run(**options: Any) -> Counts:
    return Receipts().run(**({"seconds": 20, "until_empty": True} | options))


def sizes(batches: list[list[int]]) -> Apply:
    """Note the sizes of the bodies that come together."""

    def apply(received: Sequence[Received]) -> int:
        batches.append([len(one.body) for one in received])
        return len(received)

    return apply


BATCHES: list[tuple[str, list[int], list[list[int]]]] = [
    ("small ones by number", [1] * 7, [[1] * 5, [1] * 2]),
    ("large ones by bytes", [40, 40, 40, 10], [[40, 40], [40, 10]]),
    ("one larger than a batch, alone", [200, 10, 200], [[200], [10], [200]]),
    ("up to the last byte", [60, 40, 1], [[60, 40], [1]]),
]


@pytest.mark.parametrize(("bodies", "batches"), [c[1:] for c in BATCHES], ids=[c[0] for c in BATCHES])
def test_a_batch_holds_so_many_bytes_and_so_many_receipts_oldest_first(
    bodies: list[int], batches: list[list[int]], apply_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "BATCH", 5)
    monkeypatch.setattr(receipts, "BATCH_BYTES", 100)
    found: list[list[int]] = []
    apply_with(sizes(found))
    for size in bodies:
        store("vendor", b"x" * size)
    assert run().done == len(bodies)
    assert found == batches


def test_receipts_from_before_sizes_were_kept_are_measured(
    apply_with: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receipts, "BATCH_BYTES", 100)
    found: list[list[int]] = []
    apply_with(sizes(found))
    for _ in range(3):
        store("vendor", b"x" * 60)
    Receipt.objects.update(size=0)
    run()
    assert found == [[60]] * 3


def test_who_applies_is_told_whose_app_signed(apply_with: Any) -> None:
    ann = Tenant.objects.create(name="Ann", slug="ann")
    found: list[Received] = []

    def apply(received: Sequence[Received]) -> int:
        found.extend(received)
        return len(received)

    apply_with(apply)
    store("vendor", b"hers", tenant_id=ann.pk)
    store("vendor", b"the platform's")
    run()
    assert found == [Received(b"hers", ann.pk), Received(b"the platform's", None)]


# -- what fails


def spoilt(received: Sequence[Received]) -> int:
    """Break on one body as code does, on another as the database does."""
    for one in received:
        if one.body == b"odd":
            raise KeyError("entry")
        if one.body == b"refused":
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1 / 0")
        if one.body == b"refused by a plain class":
            raise psycopg.errors.StringDataRightTruncation("too long")
        if one.body == b"too large for an index":  # an OperationalError, and not the database's fault
            raise OperationalError from psycopg.errors.ProgramLimitExceeded()
    return len(received)


def test_receipts_that_cannot_be_applied_are_kept_alone_with_their_errors(apply_with: Any) -> None:
    apply_with(spoilt)
    bad = [b"odd", b"refused", b"refused by a plain class", b"too large for an index"]
    for number in range(40):
        store("vendor", bad[number // 10] if number % 10 == 7 else b"good")
    report = run()
    assert (report.claimed, report.done, report.retried, report.failed) == (40, 36, 4, 0)
    kept = Receipt.objects.filter(applied_at=None).order_by("id")
    assert [bytes(one.body) for one in kept] == bad
    assert [one.error.partition(":")[0] for one in kept] == [
        "KeyError",
        "DataError",
        "StringDataRightTruncation",
        "OperationalError",
    ]
    assert all(one.due_at > now() for one in kept)


def test_one_given_up_on_counts_as_failed(apply_with: Any) -> None:
    apply_with(spoilt)
    receipt = store("vendor", b"odd")
    Receipt.objects.filter(pk=receipt.pk).update(attempts=MOST_ATTEMPTS - 1)
    report = run()
    assert (report.retried, report.failed, report.remaining) == (0, 1, 0)


PASSING: list[tuple[str, Callable[[], None]]] = [
    ("a deadlock", lambda: _raise_in_sql("40P01")),
    ("a lock that was not given in time", lambda: _raise_in_sql("55P03")),
    ("a backend that was ended", lambda: _end_own_backend()),
    ("a deadlock, as a plain class", lambda: _raise(psycopg.errors.DeadlockDetected("deadlock detected"))),
    ("a connection lost, as a plain class", lambda: _raise(psycopg.OperationalError("server closed"))),
]


@pytest.mark.parametrize("passing", [case[1] for case in PASSING], ids=[case[0] for case in PASSING])
def test_what_passes_costs_no_receipt_an_attempt_and_nothing_is_applied_twice(
    passing: Callable[[], None], apply_with: Any
) -> None:
    broken: list[int] = []

    def apply(received: Sequence[Received]) -> int:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE engine_receipt SET error = error || 'applied' WHERE applied_at IS NULL")
        if len(broken) < 2:
            broken.append(1)
            passing()
        return len(received)

    apply_with(apply)
    for _ in range(3):
        store("vendor", b"good")
    report = run()
    assert len(broken) == 2
    assert (report.claimed, report.done, report.retried, report.remaining) == (3, 3, 0, 0)
    assert set(Receipt.objects.values_list("attempts", "error")) == {(0, "")}
    recorded = Run.objects.get()
    assert (recorded.state, recorded.claimed, recorded.done) == ("done", 3, 3)


def _raise(error: Exception) -> None:
    raise error


def _raise_in_sql(state: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"DO $$ BEGIN RAISE EXCEPTION 'so' USING ERRCODE = '{state}'; END $$")


def _end_own_backend() -> None:
    with psycopg.connect(database_conninfo(), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


# -- the run


def test_a_run_is_recorded_when_there_was_work_and_only_then(apply_with: Any) -> None:
    apply_with(lambda received: 3 * len(received))
    run()
    assert not Run.objects.exists()
    for _ in range(2):
        store("vendor", b"good")
    run()
    told = Run.objects.get()
    assert (told.queue, told.processor, told.state) == ("events", "receipts", "done")
    assert (told.claimed, told.done, told.facts) == (2, 2, 6)
    assert (told.queue_before, told.queue_after, told.error) == (2, 0, "")
    assert told.ended_at is not None


@pytest.mark.parametrize("error", [TimeoutException("Task exceeded"), SystemExit(1), MemoryError("no more")])
def test_a_run_that_is_cut_off_is_recorded_as_failed(error: BaseException, apply_with: Any) -> None:
    def apply(received: Sequence[Received]) -> int:
        if received[0].body == b"last":
            raise error
        return len(received)

    apply_with(apply)
    store("vendor", b"first")
    late = store("vendor", b"last")
    Receipt.objects.filter(pk=late.pk).update(due_at=now() + timedelta(milliseconds=300))
    if isinstance(error, Exception):  # of one receipt, as any other
        assert run(until_empty=False, seconds=1).retried == 1
        return
    with pytest.raises(type(error)):
        run(until_empty=False, seconds=20)
    told = Run.objects.get()
    assert (told.state, told.done, told.queue_after) == ("failed", 1, 1)
    assert type(error).__name__ in told.error
    assert told.ended_at is not None


def test_a_run_that_is_asked_to_stop_is_recorded_as_done(apply_with: Any) -> None:
    """As a run that calls vendors is: what it had in hand is as it was, and nothing failed."""

    def apply(received: Sequence[Received]) -> int:
        if received[0].body == b"last":
            raise KeyboardInterrupt
        return len(received)

    apply_with(apply)
    store("vendor", b"first")
    late = store("vendor", b"last")
    Receipt.objects.filter(pk=late.pk).update(due_at=now() + timedelta(milliseconds=300))
    run(until_empty=False, seconds=20)
    told = Run.objects.get()
    assert (told.state, told.claimed, told.done, told.queue_after, told.error) == ("done", 1, 1, 1, "")
    assert told.ended_at is not None


def test_runs_whose_process_died_are_found_by_the_upkeep() -> None:
    silent = now() - timedelta(minutes=3)
    dead = Run.objects.create(queue="events", processor="receipts", process="gone:1", beat_at=silent)
    alive = Run.objects.create(queue="events", processor="receipts", process="here:1")
    other = Run.objects.create(queue="messaging", processor="messages", process="gone:1", beat_at=silent)
    with all_tenants():
        assert close_lost_runs() == 2
    states = dict(Run.objects.values_list("pk", "state"))
    assert (states[dead.pk], states[alive.pk], states[other.pk]) == ("lost", "running", "lost")
