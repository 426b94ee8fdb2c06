"""Every incident that messaging opens has an end, and none ends before its cause."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.actions import resume_lane
from engine.models import Incident
from engine.watch.incidents import open_incident
from messaging.actions import (
    cancel_broadcast,
    delete_broadcast,
    hold_broadcasts,
    launch_broadcast,
    resume_broadcast,
    tend_broadcasts,
    update_template,
)
from messaging.models import Broadcast, MessageTemplate
from messaging.watch import TRUE_WHILE
from tenants.models import ProviderToken, Tenant
from tests.messaging.build import make_broadcast, make_contacts, make_template, settle

Verb = Callable[[Broadcast], object]


def not_launched(broadcast: Broadcast) -> None:
    Broadcast.objects.filter(pk=broadcast.pk).update(
        state="scheduled", scheduled_at="2026-01-01T00:00:00Z", audience={"contacts": ["nobody"]}
    )
    tend_broadcasts()
    Broadcast.objects.filter(pk=broadcast.pk).update(audience={"all": True}, scheduled_at=None)


def paused(broadcast: Broadcast) -> None:
    launch_broadcast(broadcast_id=broadcast.pk)
    hold_broadcasts(lane_ids=[broadcast.sender.lane_id], reason="spam", detail="131048: spam")


def step_paused(broadcast: Broadcast) -> None:
    launch_broadcast(broadcast_id=broadcast.pk)
    first = broadcast.steps.earliest("position")
    update_template(template_id=first.template_id, state="paused")
    hold_broadcasts(step_id=first.pk, reason="template", detail="132015: paused")


def restricted(broadcast: Broadcast) -> None:
    """As the webhook's notice does it."""
    token = broadcast.sender.provider_token
    launch_broadcast(broadcast_id=broadcast.pk)
    hold_broadcasts(token_id=token.pk, reason="spam", detail="Meta restricts the account: RESTRICTED")
    open_incident(
        tenant_id=token.tenant_id,
        kind="account_restricted",
        scope=f"token:{token.pk}",
        summary="Meta restricts the WhatsApp account",
    )


def approve_and_resume(broadcast: Broadcast) -> None:
    settle(broadcast, "accepted", position=2)
    tend_broadcasts()  # only the held step is left, so the broadcast is paused
    MessageTemplate.objects.filter(tenant_id=broadcast.tenant_id).update(state="approved")
    resume_broadcast(broadcast_id=broadcast.pk)


def finish_the_step(broadcast: Broadcast) -> None:
    settle(broadcast, "accepted", position=1)
    settle(broadcast, "accepted", position=2)


CASES: list[tuple[str, Verb, Verb]] = [
    ("broadcast_not_launched", not_launched, lambda b: launch_broadcast(broadcast_id=b.pk)),
    ("broadcast_not_launched", not_launched, lambda b: delete_broadcast(broadcast_id=b.pk)),
    ("broadcast_not_launched", not_launched, lambda b: cancel_broadcast(broadcast_id=b.pk)),
    ("broadcast_paused", paused, lambda b: resume_broadcast(broadcast_id=b.pk)),
    ("broadcast_paused", paused, lambda b: cancel_broadcast(broadcast_id=b.pk)),
    ("step_paused", step_paused, approve_and_resume),
    ("step_paused", step_paused, lambda b: cancel_broadcast(broadcast_id=b.pk)),
    ("step_paused", step_paused, finish_the_step),
    ("account_restricted", restricted, lambda b: resume_lane(lane_id=b.sender.lane_id)),
    ("account_restricted", restricted, lambda b: resume_broadcast(broadcast_id=b.pk)),
]


@pytest.mark.parametrize(
    ("kind", "begin", "end"), CASES, ids=[f"{kind}-{at}" for at, (kind, *_) in enumerate(CASES)]
)
def test_an_incident_lasts_as_long_as_its_cause(
    acme: Tenant, globex: Tenant, kind: str, begin: Verb, end: Verb
) -> None:
    for tenant in (acme, globex):
        make_contacts(tenant, 4)
    mine, theirs = (
        make_broadcast(tenant, make_template(tenant), make_template(tenant), shares=(50, 50))
        for tenant in (acme, globex)
    )
    begin(mine)
    begin(theirs)

    def of_whom() -> set[int]:
        return set(Incident.objects.filter(kind=kind, ended_at=None).values_list("tenant_id", flat=True))

    assert of_whom() == {acme.pk, globex.pk}
    tend_broadcasts()
    assert of_whom() == {acme.pk, globex.pk}, "the cause is still there"

    mine = Broadcast.objects.get(pk=mine.pk)
    end(mine)
    tend_broadcasts()

    assert of_whom() == {globex.pk}
    tend_broadcasts()
    assert Incident.objects.filter(kind=kind).count() == 2, "ended once, and not opened again"


def test_an_incident_about_a_token_that_is_gone_is_over(acme: Tenant) -> None:
    open_incident(tenant_id=acme.pk, kind="account_restricted", scope="token:987654", summary="gone")
    assert not ProviderToken.objects.filter(pk=987654).exists()
    tend_broadcasts()
    assert not Incident.objects.filter(ended_at=None).exists()


def test_every_kind_has_a_case() -> None:
    assert set(TRUE_WHILE) == {kind for kind, *_ in CASES}
