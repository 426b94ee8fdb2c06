"""Two connections at once: what is launched or settled twice happens once, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import monotonic
from typing import Any

import orjson
import pytest
from django.db import connection, transaction

from engine.store.attempts import new_attempt
from messaging.actions import (
    advance_broadcast,
    compact_tallies,
    launch_broadcast,
    pause_broadcast,
    retry_failed,
)
from messaging.models import Broadcast, Message, MessageTally
from tenants.errors import ActionRefused
from tenants.models import Tenant
from tenants.scope import all_tenants
from tests.messaging.build import (
    apply_whatsapp,
    make_broadcast,
    make_contacts,
    make_template,
    settle,
    states,
    step_states,
)

N = 300
WAITING_FOR_US = """
SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))
"""


@pytest.fixture
def acme(transactional_db: None) -> Iterator[Tenant]:
    with all_tenants():
        yield Tenant.objects.create(name="Acme", slug="acme")


@pytest.fixture
def broadcast(acme: Tenant) -> Broadcast:
    make_contacts(acme, N)
    return make_broadcast(acme, make_template(acme), make_template(acme), shares=(50, 50))


def at_once(*work: Callable[[], Any]) -> list[Any]:
    """Run each in a thread, and so on a connection, of its own, all beginning together.

    Returns what each returned, or the refusal it met; anything else that is raised fails the test.
    """
    ready = Barrier(len(work), timeout=30)

    def run(one: Callable[[], Any]) -> Any:
        try:
            ready.wait()
            with all_tenants():
                return one()
        except ActionRefused as refusal:
            return refusal
        finally:
            connection.close()

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


def test_of_many_launches_at_once_one_goes_out(broadcast: Broadcast) -> None:
    results = at_once(*[lambda: launch_broadcast(broadcast_id=broadcast.pk)] * 4)
    refused = [result for result in results if isinstance(result, ActionRefused)]
    assert len(refused) == 3
    assert all("is running" in refusal.reason for refusal in refused)
    assert states(broadcast) == {"queued": N}


def test_a_launch_and_a_pause_at_once_end_in_one_of_two_true_states(broadcast: Broadcast) -> None:
    launched, paused = at_once(
        lambda: launch_broadcast(broadcast_id=broadcast.pk),
        lambda: pause_broadcast(broadcast_id=broadcast.pk),
    )
    broadcast.refresh_from_db()
    assert not isinstance(launched, ActionRefused)
    assert broadcast.state == ("running" if isinstance(paused, ActionRefused) else "paused")
    assert states(broadcast) == {"queued": N}


def test_a_pause_waits_for_the_launch_that_is_under_way(broadcast: Broadcast) -> None:
    """The launch holds the row in a transaction that is still open when the pause comes."""
    began = Barrier(2, timeout=30)

    def slow_launch() -> None:
        with transaction.atomic():
            launch_broadcast(broadcast_id=broadcast.pk)
            began.wait()
            # until the pause is seen waiting for our lock
            with connection.cursor() as cursor:
                deadline = monotonic() + 30
                while monotonic() < deadline:
                    cursor.execute(WAITING_FOR_US)
                    if cursor.fetchone()[0]:
                        return
                pytest.fail("the pause did not wait")

    def pause() -> Broadcast:
        began.wait()
        return pause_broadcast(broadcast_id=broadcast.pk)

    _, paused = at_once(slow_launch, pause)
    assert paused.state == "paused"
    assert states(broadcast) == {"queued": N}


def test_a_step_is_started_once_however_many_ask(broadcast: Broadcast) -> None:
    launch_broadcast(broadcast_id=broadcast.pk)
    settle(broadcast, "accepted")
    assert at_once(*[lambda: advance_broadcast(broadcast.pk)] * 4) == ["running"] * 4
    assert step_states(broadcast) == ["done", "running"]


def test_webhooks_in_opposite_order_do_not_deadlock(broadcast: Broadcast) -> None:
    """Two batches about the same messages, from both ends, again and again; and a retry in between."""
    launch_broadcast(broadcast_id=broadcast.pk)
    settle(broadcast, "accepted")
    settle(broadcast, "accepted", position=2)
    messages = list(Message.objects.order_by("pk"))
    for message in messages:
        message.attempt = new_attempt(message.pk, 1)
    Message.objects.bulk_update(messages, ["attempt"])

    def body(word: str, some: list[Message], **fields: Any) -> bytes:
        statuses = [
            {
                "id": f"w{m.pk}",
                "status": word,
                "timestamp": "1790000000",
                "biz_opaque_callback_data": str(m.attempt),
            }
            | fields
            for m in some
        ]
        value = {"metadata": {"phone_number_id": broadcast.sender.address}, "statuses": statuses}
        changes = [{"field": "messages", "value": value}]
        return orjson.dumps(
            {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": changes}]}
        )

    failed = body("failed", messages[:20], errors=[{"code": 131000, "title": "try again"}])

    def apply(*bodies: bytes) -> None:
        for one in bodies:
            with transaction.atomic():
                apply_whatsapp([one])

    at_once(
        lambda: apply(*[body("sent", messages), body("delivered", messages[20:])]),
        lambda: apply(*[body("delivered", messages[:19:-1]), body("sent", messages[::-1])]),
        lambda: apply(failed),
        lambda: retry_failed(broadcast_id=broadcast.pk),
    )
    apply(failed)
    assert states(broadcast) in (
        {"delivered": N - 20, "failed": 20},
        {"delivered": N - 20, "queued": 20},
    )


def test_two_who_fold_tallies_at_once_lose_nothing(broadcast: Broadcast) -> None:
    launch_broadcast(broadcast_id=broadcast.pk)
    for _ in range(20):
        settle(broadcast, "accepted", 5)
    MessageTally.objects.update(at="2026-01-01T00:00:00Z")
    at_once(*[compact_tallies] * 3)
    counted: dict[str, int] = {}
    for state, n in MessageTally.objects.values_list("state", "n"):
        counted[state] = counted.get(state, 0) + n
    assert (
        {state: n for state, n in counted.items() if n}
        == states(broadcast)
        == {"queued": 200, "accepted": 100}
    )
