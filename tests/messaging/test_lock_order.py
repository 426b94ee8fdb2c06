"""Rows are locked in one order: messages by id, then lanes, then broadcasts. So no two wait for each other.

Each test stands in the way at one row and asks what the verb that waits for it holds meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from time import monotonic
from typing import Any

import pytest
from django.db import OperationalError, connection, transaction
from django.utils.timezone import now

from engine.models import Lane
from engine.store.attempts import new_attempt
from messaging.actions import (
    launch_broadcast,
    resend_in_doubt,
    resolve_in_doubt,
    resume_broadcast,
    retry_failed,
)
from messaging.models import Broadcast, Message
from messaging.statuses import apply_whatsapp
from tenants.models import Tenant
from tests.messaging.build import make_broadcast, make_contacts
from tests.messaging.test_statuses import status, webhook
from tests.messaging.test_two_at_once import WAITING_FOR_US, acme, at_once

__all__ = ["acme"]

N = 20
Verb = Callable[[Broadcast, list[Message]], Any]
VERBS: list[tuple[str, str, Verb]] = [
    ("failed", "retry_failed", lambda b, _: retry_failed(broadcast_id=b.pk)),
    ("in_doubt", "resend_in_doubt", lambda b, _: resend_in_doubt(broadcast_id=b.pk, older_than_minutes=1)),
    (
        "in_doubt",
        "resolve_in_doubt",
        lambda _, rows: resolve_in_doubt(message_ids=[row.pk for row in rows[::-1]], outcome="failed"),
    ),
    (
        "accepted",
        "statuses",
        lambda b, rows: apply_whatsapp(
            [webhook(b.sender.address, status(row, "sent", 1, row.attempt)) for row in rows[::-1]]
        ),
    ),
]


@pytest.fixture
def broadcast(acme: Tenant) -> Broadcast:
    make_contacts(acme, N)
    made = make_broadcast(acme)
    launch_broadcast(broadcast_id=made.pk)
    return made


def wait_until_somebody_waits() -> None:
    deadline = monotonic() + 30
    with connection.cursor() as cursor:
        while monotonic() < deadline:
            cursor.execute(WAITING_FOR_US)
            if cursor.fetchone()[0]:
                return
    pytest.fail("nobody waits")


def is_free(table: str, pk: int) -> bool:
    """Can this row be locked now? Lets go of it again."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM {table} WHERE id = %s FOR UPDATE NOWAIT", [pk])
    except OperationalError:
        return False
    return True


def while_in_the_way(
    table: str, pk: int, look: Callable[[], Any], verb: Callable[[], Any]
) -> tuple[Any, Any]:
    """Hold a row until the verb waits for it, look about, let go. Returns what both returned."""
    held = Event()

    def stand() -> Any:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT 1 FROM {table} WHERE id = %s FOR UPDATE", [pk])
            held.set()
            wait_until_somebody_waits()
            return look()

    def act() -> Any:
        assert held.wait(30)
        with transaction.atomic():
            return verb()

    found, done = at_once(stand, act)
    return found, done


@pytest.mark.parametrize(("state", "verb"), [case[::2] for case in VERBS], ids=[case[1] for case in VERBS])
def test_messages_are_locked_by_id_and_before_their_broadcast(
    broadcast: Broadcast, state: str, verb: Verb
) -> None:
    rows = list(Message.objects.filter(broadcast=broadcast).order_by("pk"))
    # so that both the table's order and the index of failures run against the ids
    for row in rows[::-1]:
        Message.objects.filter(pk=row.pk).update(
            state=state,
            attempt=(attempt := new_attempt(row.pk, 1)),
            error_code="131000" if state == "failed" else "",
            failed_at=f"2026-11-24T10:00:{row.pk % 60:02}Z" if state == "failed" else None,
            in_doubt_at="2026-11-24T10:00:00Z",
        )
        row.attempt = attempt
    middle = N // 2

    def look() -> list[bool]:
        free = [is_free("messaging_message", row.pk) for row in rows if row != rows[middle]]
        return [*free, is_free("messaging_broadcast", broadcast.pk)]

    found, _ = while_in_the_way("messaging_message", rows[middle].pk, look, lambda: verb(broadcast, rows))
    assert found == [False] * middle + [True] * (N - middle - 1) + [True]


def test_a_lane_is_locked_before_the_broadcast_that_resumes_it(broadcast: Broadcast) -> None:
    """As the engine does, which stops the lane and then its broadcasts."""
    lane_id = broadcast.sender.lane_id
    Broadcast.objects.filter(pk=broadcast.pk).update(state="paused", pause_reason="spam")
    Lane.objects.filter(pk=lane_id).update(paused_at=now(), pause_reason="spam")
    found, resumed = while_in_the_way(
        "engine_lane",
        lane_id,
        lambda: is_free("messaging_broadcast", broadcast.pk),
        lambda: resume_broadcast(broadcast_id=broadcast.pk),
    )
    assert found is True
    assert resumed.state == "running"
    assert Lane.objects.get(pk=lane_id).paused_at is None
