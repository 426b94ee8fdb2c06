"""Lanes, incidents, webhooks and django-q2's tables: what a person may do to the machinery."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils.timezone import now
from django_q.models import Schedule

from engine.clock.schedules import sync_schedules
from engine.models import FlowHold, Incident, Lane
from engine.watch.checks import watch_everything
from messaging.models import Broadcast
from tenants.models import Tenant
from tenants.scope import all_tenants
from tests import factories


@pytest.fixture
def staff(sign_in: Any) -> Client:
    return sign_in()


def test_a_lane_is_paused_and_resumed(sign_in: Any, acme: Tenant) -> None:
    with all_tenants():
        lane = factories.LaneFactory.create(tenant=acme)
    operator = sign_in(acme)
    for verb, paused in (("pause", True), ("resume", False)):
        operator.post(reverse("admin:engine_lane_act", args=(lane.pk, verb)))
        with all_tenants():
            lane = Lane.objects.get(pk=lane.pk)
        assert (lane.paused_at is not None) == paused


def test_chosen_lanes_are_resumed_and_a_refusal_is_told(sign_in: Any, acme: Tenant) -> None:
    with all_tenants():
        fine = factories.LaneFactory.create(tenant=acme, paused_at=now(), pause_reason="operator")
        dead = factories.LaneFactory.create(tenant=acme, paused_at=now(), token__state="expired")
    data = {"action": "resume_lanes", "_selected_action": [fine.pk, dead.pk]}
    page = sign_in(acme).post(reverse("admin:engine_lane_changelist"), data, follow=True)
    assert "1 resumed" in page.content.decode()
    assert "give it a new secret" in page.content.decode()
    with all_tenants():
        assert list(Lane.objects.filter(paused_at=None)) == [fine]


def test_the_depth_of_a_lane_is_counted_from_the_tallies(sign_in: Any, acme: Tenant) -> None:
    with all_tenants():
        message = factories.MessageFactory.create(tenant=acme)
        type(message.broadcast).objects.update(state="running")
    changelist = sign_in(acme).get(reverse("admin:engine_lane_changelist")).context["cl"]
    assert {lane.pk: lane.depth for lane in changelist.result_list}[message.lane_id] == 1


def test_an_incident_is_ended_by_a_person(sign_in: Any, acme: Tenant, bolt: Tenant) -> None:
    with all_tenants():
        ours = factories.IncidentFactory.create(tenant=acme, kind="k", scope="s")
        theirs = factories.IncidentFactory.create(tenant=bolt, kind="k", scope="s")
    sign_in(acme).post(reverse("admin:engine_incident_act", args=(ours.pk, "end")))
    with all_tenants():
        assert list(Incident.objects.filter(ended_at=None)) == [theirs]


def test_a_held_flow_is_let_go_on_by_a_person(sign_in: Any, acme: Tenant, bolt: Tenant) -> None:
    with all_tenants():
        ours = factories.FlowHoldFactory.create(tenant=acme)
        theirs = factories.FlowHoldFactory.create(tenant=bolt)
        watch_everything()
        assert Incident.objects.filter(kind="flow_held", ended_at=None).count() == 2
    for hold in (ours, theirs):
        sign_in(acme).post(reverse("admin:engine_flowhold_act", args=(hold.pk, "release")))
    with all_tenants():
        assert list(FlowHold.objects.all()) == [theirs]
        assert Incident.objects.get(kind="flow_held", ended_at=None).tenant == bolt


def test_a_silent_cluster_is_shown_as_one(staff: Client, db: None) -> None:
    factories.engine.Heartbeat.objects.create(cluster="messaging", process="a:1")
    factories.engine.Heartbeat.objects.create(
        cluster="events", process="a:2", beat_at=now() - timedelta(minutes=4)
    )
    page = staff.get(reverse("admin:engine_heartbeat_changelist")).content.decode()
    assert ("works" in page, "silent" in page) == (True, True)


def test_a_webhook_is_shown_without_what_is_personal(staff: Client, db: None) -> None:
    message = {"from": "491511234567", "text": {"body": "my secret"}}
    body = json.dumps({"entry": [{"changes": [{"value": {"messages": [message]}}]}]}).encode()
    receipt = factories.ReceiptFactory.create(body=body)
    page = staff.get(reverse("admin:engine_receipt_change", args=(receipt.pk,))).content.decode()
    assert "messages" in page
    assert "491511234567" not in page
    assert "my secret" not in page


def test_a_schedule_of_the_table_changes_its_time_and_nothing_else(staff: Client) -> None:
    sync_schedules()
    schedule = Schedule.objects.get(name="watch")
    data = {
        "minutes": 5,
        "next_run_0": "2030-01-01",
        "next_run_1": "00:00",
        "func": "os.system",
        "args": "('id',)",
    }
    answer = staff.post(reverse("admin:django_q_schedule_change", args=(schedule.pk,)), data)
    assert answer.status_code == 302
    changed = Schedule.objects.get(pk=schedule.pk)
    assert (changed.minutes, changed.next_run.year) == (5, 2030)
    assert (changed.func, changed.args) == (schedule.func, schedule.args)


def test_a_schedule_of_nobodys_can_only_be_taken_away(staff: Client, db: None) -> None:
    odd = Schedule.objects.create(name="odd", func="os.system", schedule_type="O")
    address = reverse("admin:django_q_schedule_change", args=(odd.pk,))
    assert staff.post(address, {"minutes": 1}).status_code == 403
    run = reverse("admin:django_q_schedule_act", args=(odd.pk, "run_now"))
    before = Schedule.objects.values().get(pk=odd.pk)
    assert staff.post(run).status_code == 403
    assert Schedule.objects.values().get(pk=odd.pk) == before
    assert staff.get(reverse("admin:django_q_schedule_add")).status_code == 403
    staff.post(reverse("admin:django_q_schedule_delete", args=(odd.pk,)), {"post": "yes"})
    assert not Schedule.objects.filter(pk=odd.pk).exists()


def test_the_front_page_costs_the_same_with_more_of_everything(staff: Client, acme: Tenant) -> None:
    def fill(n: int) -> None:
        with all_tenants():
            for at in range(n):
                factories.MessageFactory.create(tenant=acme)
                factories.IncidentFactory.create(tenant=acme)
                token = factories.ProviderTokenFactory.create(tenant=acme, hourly_allowance=10)
                factories.LaneFactory.create(tenant=acme, token=token, rate_now=10 + at % 2)
                factories.RunFactory.create()
            Broadcast.objects.update(state="running", launched_at=now())

    counts = []
    for n in (2, 12):
        fill(n)
        with CaptureQueriesContext(connection) as asked:
            assert staff.get(reverse("admin:live")).status_code == 200
        counts.append(len(asked))
    assert counts[0] == counts[1]


def test_nobody_signed_out_gets_anything(client: Client, db: None) -> None:
    for address in (reverse("admin:live"), reverse("admin:index"), reverse("admin:engine_lane_changelist")):
        answer = client.get(address, headers={"host": "localhost"})
        assert answer.status_code == 302
        assert answer["Location"].startswith("/admin/login/")


def test_saving_a_lanes_form_leaves_what_the_engine_wrote_meanwhile(sign_in: Any, acme: Tenant) -> None:
    """The form was opened before the engine took the lane; saving it must not take the lease away."""
    with all_tenants():
        lane = factories.LaneFactory.create(tenant=acme)
    operator, address = sign_in(acme), reverse("admin:engine_lane_change", args=(lane.pk,))
    read = Lane.save

    def engine_writes_first(self: Lane, **options: Any) -> None:
        Lane.objects.filter(pk=self.pk).update(openings=7, rate_now=3, holder=42)
        read(self, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lane, "save", engine_writes_first)
        answer = operator.post(address, {"max_in_flight": 7})
    assert answer.status_code == 302
    with all_tenants():
        lane = Lane.objects.get(pk=lane.pk)
    assert (lane.max_in_flight, lane.openings, lane.rate_now, lane.holder) == (7, 7, 3, 42)
