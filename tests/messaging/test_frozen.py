"""What a launch freezes stays as it was, and what stops a running broadcast from outside stops it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection

from campaigns.actions import complete_campaign, pause_campaign, resume_campaign
from messaging.actions import (
    launch_broadcast,
    resume_broadcast,
    retry_failed,
    tend_broadcasts,
    update_template,
)
from messaging.models import Broadcast, BroadcastStep, MessageTemplate
from messaging.progress import progress_of
from messaging.querysets import RUNNABLE
from tenants.actions import reinstate_tenant, suspend_tenant
from tenants.errors import ActionRefused
from tenants.models import Tenant
from tests.messaging.build import make_broadcast, make_contacts, make_template, settle, states

HEADER = [{"type": "header", "parameters": [{"type": "text", "text": "Spring"}]}]


def launched(tenant: Tenant, *templates: MessageTemplate, **fields: Any) -> Broadcast:
    make_contacts(tenant, 4)
    broadcast = make_broadcast(tenant, *templates, **fields)
    launch_broadcast(broadcast_id=broadcast.pk)
    broadcast.refresh_from_db()
    return broadcast


def runnable_broadcasts() -> set[int]:
    """The broadcasts of which the engine may claim something now."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT f.broadcast_id FROM messaging_broadcaststep AS f WHERE " + RUNNABLE.format(flow="f.id")
        )
        return {row[0] for row in cursor.fetchall()}


def test_a_launch_freezes_what_is_sent_of_every_step(acme: Tenant) -> None:
    templates = (
        make_template(acme, category="marketing", components=HEADER),
        make_template(acme, language="de", category="utility"),
    )
    broadcast = launched(acme, *templates, shares=(50, 50))
    for template in templates:
        update_template(template_id=template.pk, category="authentication", components=[])
    assert list(broadcast.steps.order_by("position").values_list("frozen", flat=True)) == [
        {"name": templates[0].name, "language": "en_US", "category": "marketing", "components": HEADER},
        {"name": templates[1].name, "language": "de", "category": "utility", "components": []},
    ]


def test_a_draft_freezes_nothing_before_it_goes_out(acme: Tenant) -> None:
    make_contacts(acme, 1)
    template = make_template(acme)
    draft = make_broadcast(acme, template)
    assert BroadcastStep.objects.get(broadcast=draft).frozen == {}
    update_template(template_id=template.pk, components=HEADER)
    launch_broadcast(broadcast_id=draft.pk)
    assert BroadcastStep.objects.get(broadcast=draft).frozen["components"] == HEADER


Verb = Callable[[Broadcast], Any]
STOPS: list[tuple[str, Verb, str, Verb | None]] = [
    (
        "the tenant is suspended",
        lambda broadcast: suspend_tenant(tenant_id=broadcast.tenant_id),
        "the tenant is suspended",
        lambda broadcast: reinstate_tenant(tenant_id=broadcast.tenant_id),
    ),
    (
        "its campaign is paused",
        lambda broadcast: pause_campaign(campaign_id=broadcast.campaign_id),
        "its campaign is paused",
        lambda broadcast: resume_campaign(campaign_id=broadcast.campaign_id),
    ),
    (
        "its campaign is completed",
        lambda broadcast: complete_campaign(campaign_id=broadcast.campaign_id),
        "its campaign is completed",
        None,
    ),
]


@pytest.mark.parametrize(
    ("stop", "held_by", "go_on"), [case[1:] for case in STOPS], ids=[case[0] for case in STOPS]
)
def test_what_is_stopped_from_outside_stands_still_says_why_and_goes_on_by_itself(
    acme: Tenant, globex: Tenant, stop: Verb, held_by: str, go_on: Verb | None
) -> None:
    broadcast, other = launched(acme), launched(globex)
    assert runnable_broadcasts() == {broadcast.pk, other.pk}
    assert progress_of(broadcast)["held_by"] == ""

    stop(broadcast)

    assert runnable_broadcasts() == {other.pk}
    broadcast = Broadcast.objects.get(pk=broadcast.pk)
    document = progress_of(broadcast)
    assert (document["state"], document["held_by"], document["eta_seconds"]) == ("running", held_by, None)
    assert progress_of(other)["held_by"] == ""
    if go_on is not None:
        go_on(broadcast)
        tend_broadcasts()
        assert runnable_broadcasts() == {broadcast.pk, other.pk}
        assert progress_of(Broadcast.objects.get(pk=broadcast.pk))["held_by"] == ""


def test_a_completed_campaign_cancels_its_broadcasts_and_no_others(acme: Tenant) -> None:
    running, paused, other = launched(acme), make_broadcast(acme), make_broadcast(acme)
    for broadcast in (paused, other):
        launch_broadcast(broadcast_id=broadcast.pk)
    Broadcast.objects.filter(pk=paused.pk).update(state="paused", pause_reason="operator")
    settle(running, "accepted", 1)
    for broadcast in (running, paused):
        complete_campaign(campaign_id=broadcast.campaign_id)

    tend_broadcasts()

    for broadcast, expected in ((running, {"accepted": 1, "cancelled": 3}), (paused, {"cancelled": 4})):
        broadcast.refresh_from_db()
        assert (broadcast.state, states(broadcast)) == ("cancelled", expected)
        assert "campaign" in broadcast.pause_detail
        assert broadcast.ended_at is not None
    other.refresh_from_db()
    assert (other.state, states(other)) == ("running", {"queued": 4})


def test_a_paused_broadcast_is_not_resumed_while_its_campaign_is_paused(acme: Tenant) -> None:
    broadcast = launched(acme)
    Broadcast.objects.filter(pk=broadcast.pk).update(state="paused", pause_reason="operator")
    pause_campaign(campaign_id=broadcast.campaign_id)
    with pytest.raises(ActionRefused, match="is paused"):
        resume_broadcast(broadcast_id=broadcast.pk)
    settle(broadcast, "failed", error_code="131000")
    assert retry_failed(broadcast_id=broadcast.pk) == 4
    assert runnable_broadcasts() == set()
