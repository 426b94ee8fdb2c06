"""What a launch freezes: who gets it, in which step, with which words, and never twice."""

from __future__ import annotations

from datetime import timedelta
from hashlib import md5
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now
from django_q.models import OrmQ

from campaigns.models import Contact, Segment
from engine.models import Incident, Lane
from messaging import audience
from messaging.actions import (
    create_sender,
    launch_broadcast,
    launch_due_broadcasts,
    preflight_broadcast,
    suppress,
    update_template,
)
from messaging.models import Broadcast, Message, MessageTally
from tenants.errors import ActionRefused
from tenants.models import ProviderToken, Tenant
from tenants.scope import tenant_scope
from tests.messaging.build import (
    make_broadcast,
    make_contacts,
    make_sender,
    make_template,
    make_token,
    step_states,
)


def test_everybody_of_the_tenant_gets_one_message_and_nobody_else(acme: Tenant, globex: Tenant) -> None:
    make_contacts(acme, 30)
    make_contacts(globex, 20)
    broadcast = make_broadcast(acme)

    launched = launch_broadcast(broadcast_id=broadcast.pk)

    assert (launched.state, launched.total, launched.excluded) == ("running", 30, {})
    messages = Message.objects.filter(broadcast=broadcast)
    assert {message.tenant_id for message in messages} == {acme.pk}
    assert {message.contact_id for message in messages} == set(
        Contact.objects.filter(tenant=acme).values_list("pk", flat=True)
    )
    assert {(m.state, m.lane_id, m.attempts) for m in messages} == {("queued", broadcast.sender.lane_id, 0)}
    broadcast.refresh_from_db()
    assert (broadcast.state, broadcast.total) == ("running", 30)
    assert step_states(broadcast) == ["running"]


def test_a_launch_inside_the_tenants_own_scope_finds_the_same_people(acme: Tenant, globex: Tenant) -> None:
    make_contacts(acme, 5)
    make_contacts(globex, 5)
    broadcast = make_broadcast(acme)
    with tenant_scope(acme.pk):
        assert launch_broadcast(broadcast_id=broadcast.pk).total == 5
    with tenant_scope(globex.pk), pytest.raises(ActionRefused, match="There is no broadcast"):
        preflight_broadcast(broadcast_id=broadcast.pk)


def test_everybody_left_out_is_counted_with_the_first_reason(acme: Tenant, globex: Tenant) -> None:
    make_contacts(acme, 10)
    template = make_template(
        acme, category="marketing", body="{{1}} of {{2}}", variables=["name", "attributes.city"]
    )
    by_name = {contact.external_id: contact for contact in Contact.objects.filter(tenant=acme)}

    def change(external_id: str, **fields: Any) -> None:
        Contact.objects.filter(pk=by_name[external_id].pk).update(**fields)

    change("c1", phone="")
    change("c3", phone=by_name["c2"].phone)  # c2 is older and gets it
    change("c6", attributes={"city": "  "})
    change("c7", name="")
    change("c8", phone=by_name["c7"].phone)  # c7 lacks its name, so this phone is reached by c8
    suppress(tenant_id=acme.pk, contact_ids=[by_name["c4"].pk], channel="all", reason="asked us")
    suppress(tenant_id=acme.pk, phones=[by_name["c5"].phone], channel="whatsapp_marketing", reason="stop")
    suppress(tenant_id=acme.pk, phones=[by_name["c9"].phone], channel="sms", reason="another channel")
    suppress(tenant_id=globex.pk, phones=[by_name["c10"].phone], channel="all", reason="another tenant")
    broadcast = make_broadcast(acme, template)

    expected = {
        "no_phone": 1,
        "suppressed": 1,
        "opted_out_of_marketing": 1,
        "missing_variables": 2,
        "duplicate_phone": 1,
    }
    preflight = preflight_broadcast(broadcast_id=broadcast.pk)
    launched = launch_broadcast(broadcast_id=broadcast.pk)

    assert (preflight.total, preflight.sendable, preflight.excluded) == (10, 4, expected)
    assert (launched.total, launched.excluded) == (4, expected)
    sent_to = Message.objects.filter(broadcast=broadcast).values_list("contact__external_id", flat=True)
    assert sorted(sent_to) == ["c10", "c2", "c8", "c9"]


def test_who_opted_out_of_marketing_still_gets_what_is_not_marketing(acme: Tenant) -> None:
    make_contacts(acme, 2)
    phone = Contact.objects.filter(tenant=acme).earliest("pk").phone
    suppress(tenant_id=acme.pk, phones=[phone], channel="whatsapp_marketing", reason="stop")
    assert launch_broadcast(broadcast_id=make_broadcast(acme).pk).total == 2


def test_variables_are_filled_in_as_the_vendor_takes_them(acme: Tenant) -> None:
    Contact.objects.create(
        tenant=acme,
        external_id="ann",
        phone="+4915100000001",
        name="Ann\n  of\tHill",
        attributes={"city": "Bonn", "points": 7, "a%b": "100 %", "gone": None},
    )
    template = make_template(
        acme,
        body="{{1}} {{2}} {{3}} {{4}} {{5}} {{6}}",
        variables=[
            "name",
            "phone",
            "attributes.points",
            "attributes.a%b",
            {"from": "attributes.gone", "default": "friend"},
            {"from": "email", "default": "it's 5 % off"},
        ],
    )
    broadcast = make_broadcast(acme, template)
    launch_broadcast(broadcast_id=broadcast.pk)
    assert Message.objects.get(broadcast=broadcast).parameters == [
        "Ann of Hill",
        "+4915100000001",
        "7",
        "100 %",
        "friend",
        "it's 5 % off",
    ]


@pytest.mark.parametrize(
    ("n", "shares", "sizes"),
    [
        (1000, (100,), [1000]),
        (1000, (50, 30, 20), [500, 300, 200]),
        (7, (50, 50), [3, 4]),
        (10, (33, 33, 34), [3, 3, 4]),
        (1, (50, 50), [0, 1]),
    ],
)
def test_steps_are_as_large_as_their_shares_to_one(
    acme: Tenant, n: int, shares: tuple[int, ...], sizes: list[int]
) -> None:
    make_contacts(acme, n)
    templates = [make_template(acme, body=f"text {i}") for i in range(len(shares))]
    broadcast = make_broadcast(acme, *templates, shares=shares)

    assert [step["size"] for step in preflight_broadcast(broadcast_id=broadcast.pk).steps] == sizes
    launch_broadcast(broadcast_id=broadcast.pk)

    counted = [
        Message.objects.filter(broadcast=broadcast, step__position=position).count()
        for position in range(1, len(shares) + 1)
    ]
    assert counted == sizes
    # the first step with anybody in it runs
    assert step_states(broadcast).index("running") == next(i for i, size in enumerate(sizes) if size)


def test_the_split_follows_the_hash_of_broadcast_and_contact(acme: Tenant) -> None:
    make_contacts(acme, 40)
    broadcast = make_broadcast(acme, make_template(acme), make_template(acme), shares=(25, 75))
    launch_broadcast(broadcast_id=broadcast.pk)

    contacts = Contact.objects.filter(tenant=acme).values_list("pk", flat=True)
    by_hash = sorted(contacts, key=lambda pk: md5(f"{broadcast.pk}:{pk}".encode()).digest())  # noqa: S324
    first = Message.objects.filter(broadcast=broadcast, step__position=1)
    assert set(first.values_list("contact_id", flat=True)) == set(by_hash[:10])


def test_a_named_audience_and_a_segment_choose_their_contacts(acme: Tenant) -> None:
    make_contacts(acme, 10)
    named = make_broadcast(acme, audience={"contacts": ["c3", "c5"]})
    assert launch_broadcast(broadcast_id=named.pk).total == 2
    rules = {"field": "attributes.city", "op": "eq", "value": "City 3"}
    segment = Segment.objects.create(tenant=acme, name="City 3", rules=rules)
    some = make_broadcast(acme, audience={"segment": segment.pk})
    assert launch_broadcast(broadcast_id=some.pk).total == 2  # c3 and c10


def test_a_launch_of_20000_contacts_takes_as_many_queries_as_one_of_20(acme: Tenant, globex: Tenant) -> None:
    taken = {}
    for tenant, n in ((acme, 20), (globex, 20_000)):
        make_contacts(tenant, n)
        broadcast = make_broadcast(tenant, make_template(tenant), make_template(tenant), shares=(60, 40))
        OrmQ.objects.all().delete()  # a tick that waits already is not asked for again
        with CaptureQueriesContext(connection) as queries:
            assert launch_broadcast(broadcast_id=broadcast.pk).total == n
        taken[n] = len(queries)
    assert taken[20] == taken[20_000]
    tallied = MessageTally.objects.filter(broadcast=broadcast).order_by("step").values_list("state", "n")
    assert list(tallied) == [("queued", 12_000), ("queued", 8_000)]


OBSTACLES: list[tuple[str, Any]] = [
    (
        "Template .* is paused",
        lambda b: update_template(template_id=b.steps.get().template_id, state="paused"),
    ),
    (
        "Template .* is disabled",
        lambda b: update_template(template_id=b.steps.get().template_id, state="disabled"),
    ),
    ("Token .* is revoked", lambda b: _tokens(b).update(state="revoked")),
    ("Token .* is expired", lambda b: _tokens(b).update(expires_at=now() - timedelta(1))),
    ("held .spam.", lambda b: Lane.objects.update(paused_at=now(), pause_reason="spam")),
    ("Campaign .* is completed", lambda b: type(b.campaign).objects.update(state="completed")),
    ("tenant is suspended", lambda b: Tenant.objects.update(state="suspended")),
    ("Nobody in the audience", lambda b: Contact.objects.update(phone="")),
]


def _set_template(broadcast: Broadcast, state: str) -> None:
    update_template(template_id=broadcast.steps.get().template_id, state=state)


def _tokens(broadcast: Broadcast) -> Any:
    return ProviderToken.objects.filter(pk=broadcast.sender.provider_token_id)


@pytest.mark.parametrize(("why", "spoil"), OBSTACLES, ids=[why for why, _ in OBSTACLES])
def test_a_launch_is_refused_with_the_reason_and_nothing_is_written(
    acme: Tenant, why: str, spoil: Any
) -> None:
    make_contacts(acme, 3)
    broadcast = make_broadcast(acme)
    spoil(broadcast)

    with pytest.raises(ActionRefused, match=why):
        launch_broadcast(broadcast_id=broadcast.pk)

    assert any(why.split()[0] in error for error in preflight_broadcast(broadcast_id=broadcast.pk).errors)
    broadcast.refresh_from_db()
    assert broadcast.state == "draft"
    assert not Message.objects.exists()
    assert step_states(broadcast) == ["waiting"]


def test_sms_senders_have_no_broadcasts(acme: Tenant) -> None:
    make_contacts(acme, 1)
    token = make_token(acme, "lime")
    sender = create_sender(tenant_id=acme.pk, provider_token_id=token.pk, kind="sms", address="55511")
    with pytest.raises(ActionRefused, match="go out by WhatsApp"):
        launch_broadcast(broadcast_id=make_broadcast(acme, sender=sender).pk)


def test_a_broadcast_is_launched_once(acme: Tenant) -> None:
    make_contacts(acme, 3)
    broadcast = make_broadcast(acme)
    launch_broadcast(broadcast_id=broadcast.pk)
    with pytest.raises(ActionRefused, match="is running: only a draft"):
        launch_broadcast(broadcast_id=broadcast.pk)
    assert Message.objects.count() == 3


def test_preflight_warns_of_american_numbers_for_marketing_only(acme: Tenant) -> None:
    make_contacts(acme, 4, area="+1212", prefix="us")
    make_contacts(acme, 80)
    sender = make_sender(acme, rate=10)
    marketing = make_broadcast(acme, make_template(acme, category="marketing"), sender=sender)
    preflight = preflight_broadcast(broadcast_id=marketing.pk)
    assert preflight.us_marketing == 4
    assert "131049" in preflight.warnings[0]
    assert preflight.estimated_seconds == 8.4
    assert preflight.errors == []
    assert preflight_broadcast(broadcast_id=make_broadcast(acme).pk).warnings == []


def test_a_scheduled_broadcast_freezes_its_audience_when_it_is_due(acme: Tenant) -> None:
    make_contacts(acme, 3)
    later = make_broadcast(acme, scheduled_at=now() + timedelta(hours=1))
    assert launch_broadcast(broadcast_id=later.pk).state == "scheduled"
    assert launch_due_broadcasts() == 0
    assert not Message.objects.exists()

    make_contacts(acme, 2, area="+4916", prefix="late")
    Broadcast.objects.update(scheduled_at=now())
    assert launch_due_broadcasts() == 1
    assert launch_due_broadcasts() == 0
    assert Message.objects.filter(broadcast=later).count() == 5


def test_what_cannot_go_out_when_due_is_a_draft_again_and_an_incident(acme: Tenant, globex: Tenant) -> None:
    for tenant in (acme, globex):
        make_contacts(tenant, 1)
        broadcast = make_broadcast(tenant, scheduled_at=now() + timedelta(hours=1))
        launch_broadcast(broadcast_id=broadcast.pk)
    ProviderToken.objects.filter(tenant=acme).update(state="revoked")
    Broadcast.objects.update(scheduled_at=now())

    assert launch_due_broadcasts() == 1

    stuck = Broadcast.objects.get(tenant=acme)
    assert (stuck.state, "revoked" in stuck.pause_detail) == ("draft", True)
    assert Broadcast.objects.get(tenant=globex).state == "running"
    assert Incident.objects.get().tenant_id == acme.pk


def test_stale_statistics_cannot_turn_a_launch_into_a_loop_over_loops(acme: Tenant) -> None:
    """Right after a first import the planner thinks that the tenant has one contact and joins by loops."""
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE campaigns_contact")
        cursor.execute("ANALYZE messaging_suppression")
    make_contacts(acme, 1000)
    broadcast = make_broadcast(acme)
    steps = list(broadcast.steps.select_related("template"))
    ctes, params = audience.ranked_sql(broadcast, steps)
    with tenant_scope(acme.pk):
        with audience.planned_for_many() as cursor:
            cursor.execute(f"EXPLAIN WITH {ctes} SELECT * FROM ranked", params)
            plan = "\n".join(line for (line,) in cursor.fetchall())
        assert "Join" in plan
        assert "Nested Loop" not in plan
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('enable_nestloop')")
            assert cursor.fetchone() == ("on",)
