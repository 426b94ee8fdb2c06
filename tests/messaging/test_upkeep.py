"""The minute's tick: a broadcast that fails keeps nobody else waiting, and nobody is left behind."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now

from engine.models import Incident
from messaging.actions import cancel_broadcast, launch_broadcast, tend_broadcasts, upkeep
from messaging.actions import failures as failures_module
from messaging.actions import launch as launch_module
from messaging.models import Broadcast, BroadcastStep, Message, MessageTemplate
from tenants.models import Tenant
from tests.messaging.build import make_broadcast, make_contacts, make_template, settle, states, step_states


def launched(tenant: Tenant, *templates: MessageTemplate, shares: tuple[int, ...] = (100,)) -> Broadcast:
    broadcast = make_broadcast(tenant, *templates, shares=shares)
    launch_broadcast(broadcast_id=broadcast.pk)
    broadcast.refresh_from_db()
    return broadcast


def scheduled(tenant: Tenant) -> Broadcast:
    broadcast = make_broadcast(tenant, scheduled_at=now() + timedelta(hours=1))
    launch_broadcast(broadcast_id=broadcast.pk)
    Broadcast.objects.filter(pk=broadcast.pk).update(scheduled_at=now() - timedelta(seconds=1))
    return broadcast


def state_of(broadcast: Broadcast) -> str:
    return Broadcast.objects.values_list("state", flat=True).get(pk=broadcast.pk)


@pytest.fixture
def people(acme: Tenant, globex: Tenant) -> None:
    make_contacts(acme, 4)
    make_contacts(globex, 4)


def failing_for(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, broadcast: Broadcast, error: Exception
) -> None:
    """Let one function raise when it is called for one broadcast, by id, row or step."""
    real = getattr(module, name)

    def spoiled(first: Any = None, *args: Any, **kwargs: Any) -> Any:
        about = kwargs.get("broadcast_id", first)
        if kwargs.get("step_id"):
            about = BroadcastStep.objects.get(pk=kwargs["step_id"])
        if getattr(about, "broadcast_id", getattr(about, "pk", about)) == broadcast.pk:
            raise error
        return real(first, *args, **kwargs) if first is not None else real(*args, **kwargs)

    monkeypatch.setattr(module, name, spoiled)


# -- what is scheduled


def test_one_that_cannot_be_launched_is_a_draft_again_and_the_others_go_out(
    people: None, acme: Tenant, globex: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, other = scheduled(acme), scheduled(globex)
    failing_for(monkeypatch, launch_module, "_freeze", broken, ZeroDivisionError("nobody foresaw this"))

    tend_broadcasts()

    assert (state_of(broken), state_of(other)) == ("draft", "running")
    incident = Incident.objects.get(ended_at=None)
    assert (incident.tenant_id, incident.kind, incident.scope) == (
        acme.pk,
        "broadcast_not_launched",
        f"broadcast:{broken.pk}",
    )
    assert "nobody foresaw this" not in incident.summary, "what a program says is for its log"
    assert not Message.objects.filter(broadcast=broken).exists()


def test_an_audience_that_makes_no_sense_stops_nobody_else(
    people: None, acme: Tenant, globex: Tenant
) -> None:
    """As it was: an audience that the statement cannot be written for raised KeyError, every minute."""
    broken, other = scheduled(acme), scheduled(globex)
    Broadcast.objects.filter(pk=broken.pk).update(audience={"everybody": True})
    tend_broadcasts()
    assert (state_of(broken), state_of(other)) == ("draft", "running")


# -- what runs

Piece = tuple[str, Any, str]
PIECES: list[Piece] = [
    ("holding a step", upkeep, "hold_broadcasts"),
    ("judging failures", failures_module, "pause_running"),
    ("advancing", upkeep, "advance_broadcast"),
    ("cancelling what is left", upkeep, "cancel_queued"),
    ("ending with the campaign", upkeep, "cancel_broadcast"),
]


@pytest.mark.parametrize(("module", "name"), [case[1:] for case in PIECES], ids=[case[0] for case in PIECES])
def test_what_is_wrong_with_one_broadcast_stays_with_it_and_is_told_until_it_is_over(
    people: None,
    acme: Tenant,
    globex: Tenant,
    module: Any,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = launched(acme, make_template(acme), make_template(acme), shares=(50, 50))
    other = launched(globex, make_template(globex), make_template(globex), shares=(50, 50))
    if name == "hold_broadcasts":
        MessageTemplate.objects.filter(pk=broken.steps.first().template_id).update(state="paused")
    elif name == "pause_running":
        make_failures(broken)
    elif name == "cancel_queued":
        cancel_broadcast(broadcast_id=broken.pk)
        Message.objects.filter(broadcast=broken).update(state="queued")
    elif name == "cancel_broadcast":
        broken.campaign.state = "completed"
        broken.campaign.save()
    settle(other, "accepted")
    with monkeypatch.context() as patch:
        if name == "pause_running":
            patch.setattr(module, name, lambda ids, *args: 1 // (ids != [broken.pk]))
        else:
            failing_for(patch, module, name, broken, ZeroDivisionError("no"))
        tend_broadcasts()
        assert step_states(other) == ["done", "running"]
        incident = Incident.objects.get(kind="broadcast_upkeep", ended_at=None)
        assert (incident.tenant_id, incident.scope) == (acme.pk, f"broadcast:{broken.pk}")

    tend_broadcasts()
    assert not Incident.objects.filter(kind="broadcast_upkeep", ended_at=None).exists()


def make_failures(broadcast: Broadcast) -> None:
    """Sixty failures of a step that goes on: more than the rule bears."""
    make_contacts(broadcast.tenant, 120, prefix="f", area="+4930")
    step = broadcast.steps.earliest("position")
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO messaging_message (tenant_id, lane_id, broadcast_id, step_id, contact_id, phone,
                   parameters, state, due_at, created_at, attempts, error_code, error_detail, wamid,
                   vendor_status, failed_at)
            SELECT tenant_id, %s, %s, %s, id, phone, '[]', 'failed', now(), now(), 1, '131026', '', '',
                   '', now()
              FROM campaigns_contact WHERE external_id LIKE 'f%%' LIMIT 60""",
            [broadcast.sender.lane_id, broadcast.pk, step.pk],
        )


def test_a_whole_piece_that_fails_leaves_the_others_to_be_done(
    people: None, acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    broadcast = launched(acme)
    settle(broadcast, "accepted")
    monkeypatch.setattr(upkeep, "hold_unusable_steps", lambda pieces: 1 // 0)
    tend_broadcasts()
    assert state_of(broadcast) == "completed"
    assert [(i.tenant_id, i.scope) for i in Incident.objects.filter(ended_at=None)] == [
        (None, "upkeep:holding")
    ]


# -- rows that a stalled runner gave back late


@pytest.mark.parametrize("before", ["completed", "running"])
def test_rows_that_come_back_after_their_step_was_called_done_are_sent_after_all(
    people: None, acme: Tenant, globex: Tenant, before: str
) -> None:
    broadcast = launched(acme, make_template(acme), make_template(acme), shares=(50, 50))
    other = launched(globex)
    settle(other, "accepted")
    first = list(Message.objects.filter(broadcast=broadcast, step__position=1).values_list("pk", flat=True))
    settle(broadcast, "accepted")
    tend_broadcasts()
    if before == "completed":
        settle(broadcast, "accepted", position=2)
        tend_broadcasts()
    assert (state_of(broadcast), state_of(other)) == (before, "completed")
    # a runner that stood still past its lease gives back what it had claimed
    Message.objects.filter(pk=first[0]).update(state="queued")

    tend_broadcasts()

    broadcast.refresh_from_db()
    assert (broadcast.state, broadcast.ended_at) == ("running", None)
    if before == "running":
        assert step_states(broadcast) == ["waiting", "running"]
        settle(broadcast, "accepted", position=2)
        tend_broadcasts()
    assert step_states(broadcast) == ["running", "done"]
    assert state_of(other) == "completed"
    settle(broadcast, "accepted")
    tend_broadcasts()
    assert (state_of(broadcast), states(broadcast)) == ("completed", {"accepted": 4})


def test_rows_that_come_back_after_a_cancel_are_cancelled_however_late(people: None, acme: Tenant) -> None:
    broadcast = launched(acme)
    settle(broadcast, "claimed", 1)
    cancel_broadcast(broadcast_id=broadcast.pk)
    Broadcast.objects.filter(pk=broadcast.pk).update(ended_at=now() - timedelta(days=40))
    Message.objects.filter(state="claimed").update(state="queued")
    tend_broadcasts()
    assert states(broadcast) == {"cancelled": 4}


def test_looking_for_them_reads_an_index_of_what_is_queued_and_no_history(people: None, acme: Tenant) -> None:
    launched(acme)
    with CaptureQueriesContext(connection) as asked:
        upkeep.left_behind()
    (query,) = asked.captured_queries
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("EXPLAIN " + query["sql"])
        plan = "\n".join(row[0] for row in cursor.fetchall())
    scans = [
        line for line in plan.splitlines() if "messaging_message " in line or "messaging_message_" in line
    ]
    assert scans
    assert all("message_due" in line for line in scans), plan
