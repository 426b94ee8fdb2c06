"""Depth counts what is due: what a runner could claim now."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from engine.inbox.receipts import MOST_ATTEMPTS
from engine.models import FlowHold, Lane, Receipt
from engine.processor import registry
from engine.processor.registry import register_processor
from engine.watch.depth import depth_of
from tests.engine.queues import Letter, Letters

MakeLane = Callable[..., Lane]


class FussyLetters(Letters):
    runnable = "NOT EXISTS (SELECT FROM tenants_tenant t WHERE t.id = {flow} AND t.name = 'stopped')"


@pytest.fixture(autouse=True)
def registered(queues: None) -> Iterator[None]:
    register_processor(FussyLetters("http://unused.invalid"))
    yield
    del registry._workers["letters"], registry._processors["letters"]


def letters(lane: Lane, n: int, **fields: object) -> None:
    Letter.objects.bulk_create(Letter(tenant=lane.tenant, lane=lane, **fields) for _ in range(n))


def test_what_is_due_of_every_tenant_is_counted_and_the_oldest_told(make_lane: MakeLane) -> None:
    now = timezone.now()
    letters(make_lane(Letters, "ann"), 3, due_at=now - timedelta(seconds=40))
    letters(make_lane(Letters, "bob"), 2)
    depth = depth_of("letters", most=100)
    assert (depth.queue, depth.waiting) == ("letters", 5)
    assert depth.oldest_due_seconds == pytest.approx(40, abs=5)


def test_what_cannot_be_claimed_now_is_not_counted(make_lane: MakeLane) -> None:
    later = timezone.now() + timedelta(minutes=5)
    letters(make_lane(Letters, "later"), 4, due_at=later)
    letters(make_lane(Letters, "stopped"), 4)
    letters(make_lane(Letters, "held", paused_at=timezone.now()), 4)
    broken = make_lane(Letters, "broken")
    letters(broken, 4)
    FlowHold.objects.create(
        tenant=broken.tenant, processor="letters", flow=broken.tenant_id, reason="fault", detail="odd"
    )
    some = make_lane(Letters, "some")
    letters(some, 4, state="sending")
    letters(some, 4, state="done")
    letters(some, 1)
    letters(some, 9, due_at=later)
    assert depth_of("letters", most=100).waiting == 1


def test_an_empty_queue_has_no_depth() -> None:
    depth = depth_of("letters", most=100)
    assert (depth.waiting, depth.oldest_due_seconds) == (0, 0.0)


def test_counting_stops_at_the_bound_over_all_flows_in_one_query(make_lane: MakeLane) -> None:
    for name in ("ann", "bob", "cat"):
        letters(make_lane(Letters, name), 5)
    with CaptureQueriesContext(connection) as queries:
        assert depth_of("letters", most=7).waiting == 7
    assert len(queries) == 1


def test_the_rows_that_are_due_later_are_not_read(make_lane: MakeLane) -> None:
    """A queue of recurring requests holds millions of them."""
    lane = make_lane(Letters)
    letters(lane, 5_000, due_at=timezone.now() + timedelta(days=1))
    letters(lane, 5)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE tests_letter")
    with CaptureQueriesContext(connection) as queries:
        assert depth_of("letters", most=10_000).waiting == 5
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + queries[0]["sql"])
        (plan,) = cursor.fetchone()[0]
    assert most_rows(plan["Plan"]) <= 10


def most_rows(node: dict[str, object]) -> float:
    """Find the most rows that any node of a plan read, those that a filter dropped included."""
    read = float(node["Actual Rows"]) + float(node.get("Rows Removed by Filter", 0))
    inner: list[dict[str, object]] = node.get("Plans", [])  # type: ignore[assignment]
    return max([read * float(node["Actual Loops"]), *(most_rows(of) for of in inner)])


def test_webhooks_count_until_they_are_given_up_on() -> None:
    now = timezone.now()
    Receipt.objects.create(provider="whatsapp", body=b"{}", due_at=now - timedelta(seconds=30))
    Receipt.objects.create(provider="whatsapp", body=b"{}", due_at=now + timedelta(minutes=1))
    Receipt.objects.create(provider="whatsapp", body=b"{}", attempts=MOST_ATTEMPTS)
    Receipt.objects.create(provider="whatsapp", body=b"{}", applied_at=now)
    depth = depth_of("events", most=10)
    assert depth.waiting == 1
    assert depth.oldest_due_seconds == pytest.approx(30, abs=5)
