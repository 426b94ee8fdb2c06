"""Progress comes from tallies: exact, cheap for many, and folded without losing a message."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils.timezone import now

from messaging.actions import (
    advance_broadcast,
    compact_tallies,
    launch_broadcast,
    pause_broadcast,
)
from messaging.models import Message, MessageTally
from messaging.progress import progress_of, progress_of_many
from tenants.models import Tenant
from tests.messaging.build import make_broadcast, make_contacts, make_template, settle, states


def age_tallies(seconds: int) -> None:
    MessageTally.objects.update(at=now() - timedelta(seconds=seconds))


def test_every_message_is_counted_once_under_its_state(acme: Tenant) -> None:
    make_contacts(acme, 100)
    broadcast = make_broadcast(acme, make_template(acme), make_template(acme), shares=(60, 40))
    launch_broadcast(broadcast_id=broadcast.pk)
    broadcast.refresh_from_db()
    for state, n in (("claimed", 3), ("sending", 2), ("accepted", 10), ("delivered", 5), ("failed", 1)):
        settle(broadcast, state, n)
    settle(broadcast, "in_doubt", 1, position=2)

    document = progress_of(broadcast)

    assert document["state"] == "running"
    assert {name: document[name] for name in ("total", "queued", "sending", "accepted", "sent")} == {
        "total": 100,
        "queued": 78,
        "sending": 5,
        "accepted": 10,
        "sent": 0,
    }
    assert (document["delivered"], document["failed"], document["in_doubt"]) == (5, 1, 1)
    assert [(step["position"], step["total"], step["queued"]) for step in document["steps"]] == [
        (1, 60, 39),
        (2, 40, 39),
    ]
    assert document["rate_per_second"] == 1.5
    assert document["eta_seconds"] == round(83 / 1.5)


def test_statuses_of_messages_counted_before_are_no_speed(acme: Tenant) -> None:
    make_contacts(acme, 20)
    broadcast = make_broadcast(acme)
    launch_broadcast(broadcast_id=broadcast.pk)
    broadcast.refresh_from_db()
    settle(broadcast, "accepted", 10)
    age_tallies(30)
    Message.objects.filter(state="accepted").update(state="delivered")
    document = progress_of(broadcast)
    assert (document["delivered"], document["rate_per_second"], document["eta_seconds"]) == (10, 0, None)


def test_nothing_is_left_to_wait_for_when_it_is_done_and_nobody_knows_when_it_is_paused(acme: Tenant) -> None:
    make_contacts(acme, 5)
    broadcast = make_broadcast(acme)
    assert progress_of(broadcast)["eta_seconds"] is None
    launch_broadcast(broadcast_id=broadcast.pk)
    settle(broadcast, "accepted", 2)
    paused = pause_broadcast(broadcast_id=broadcast.pk)
    assert progress_of(paused)["eta_seconds"] is None
    assert progress_of(paused)["pause_reason"] == "operator"
    broadcast.refresh_from_db()
    broadcast.state = "running"
    broadcast.pause_reason = ""
    broadcast.save()
    settle(broadcast, "accepted")
    assert advance_broadcast(broadcast.pk) == "completed"
    broadcast.refresh_from_db()
    assert progress_of(broadcast)["eta_seconds"] == 0


def test_many_broadcasts_take_two_queries(
    acme: Tenant, globex: Tenant, django_assert_num_queries: Any
) -> None:
    broadcasts = []
    for tenant, n in ((acme, 3), (globex, 5), (acme, 7)):
        make_contacts(tenant, n, prefix=f"x{n}-", area=f"+49{n}")
        broadcasts.append(make_broadcast(tenant, audience={"contacts": [f"x{n}-{i + 1}" for i in range(n)]}))
        launch_broadcast(broadcast_id=broadcasts[-1].pk)
    with django_assert_num_queries(2):
        found = progress_of_many(broadcasts)
    assert [found[broadcast.pk]["total"] for broadcast in broadcasts] == [3, 5, 7]


def test_folding_keeps_every_count_and_leaves_the_newest_minute(acme: Tenant) -> None:
    make_contacts(acme, 40)
    broadcast = make_broadcast(acme)
    launch_broadcast(broadcast_id=broadcast.pk)
    broadcast.refresh_from_db()
    for _ in range(10):
        settle(broadcast, "accepted", 3)
    assert compact_tallies() == 0
    age_tallies(120)
    settle(broadcast, "accepted", 2)
    before = progress_of(broadcast)
    rows = MessageTally.objects.count()

    gone = compact_tallies()

    assert gone == rows - MessageTally.objects.count() > 10
    assert progress_of(broadcast) == before
    assert before["queued"] == states(broadcast)["queued"] == 8
    assert compact_tallies() == 0
