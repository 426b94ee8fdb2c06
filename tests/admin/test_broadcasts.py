"""A broadcast in the admin: written down, checked, launched, stopped; refusals are readable."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.timezone import now

from messaging.models import Broadcast, Message
from tenants.models import Tenant
from tenants.scope import all_tenants
from tests import factories

ADD = "admin:messaging_broadcast_add"


@pytest.fixture
def operator(sign_in: Any, acme: Tenant) -> Client:
    return sign_in(acme, "operator")


@pytest.fixture
def parts(acme: Tenant) -> dict[str, Any]:
    """What a broadcast of Acme's is made of, and three people to get it."""
    with all_tenants():
        factories.ContactFactory.create_batch(3, tenant=acme)
        return {
            "campaign": factories.CampaignFactory.create(tenant=acme),
            "sender": factories.SenderFactory.create(tenant=acme),
            "first": factories.MessageTemplateFactory.create(tenant=acme),
            "second": factories.MessageTemplateFactory.create(tenant=acme),
        }


def form(parts: dict[str, Any], *shares: int, **changes: Any) -> dict[str, Any]:
    steps = [(parts["first"], shares[0]), (parts["second"], shares[1])] if len(shares) > 1 else []
    steps = steps or [(parts["first"], shares[0])]
    data = {
        "name": "Open day",
        "campaign": parts["campaign"].pk,
        "sender": parts["sender"].pk,
        "scheduled_at_0": "",
        "scheduled_at_1": "",
        "reach": "all",
        "listed": "",
        "steps-TOTAL_FORMS": len(steps),
        "steps-INITIAL_FORMS": 0,
    }
    for at, (template, share) in enumerate(steps):
        data |= {f"steps-{at}-template": template.pk, f"steps-{at}-share": share}
    return data | changes


def act(client: Client, broadcast: Broadcast, verb: str) -> Any:
    return client.post(reverse("admin:messaging_broadcast_act", args=(broadcast.pk, verb)), follow=True)


def told(answer: Any) -> str:
    return " ".join(str(message) for message in answer.context["messages"])


def the_broadcast() -> Broadcast:
    with all_tenants():
        return Broadcast.objects.select_related("tenant").get()


def test_it_is_written_down_with_its_steps_in_the_tenant_of_the_person(
    operator: Client, parts: dict[str, Any], acme: Tenant
) -> None:
    answer = operator.post(reverse(ADD), form(parts, 60, 40), follow=True)
    broadcast = the_broadcast()
    assert "is written down" in told(answer)
    assert (broadcast.tenant, broadcast.state, broadcast.audience) == (acme, "draft", {"all": True})
    with all_tenants():
        steps = list(broadcast.steps.order_by("position").values_list("template_id", "share"))
    assert steps == [(parts["first"].pk, 60), (parts["second"].pk, 40)]


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"reach": "segment"}, "segment", "Choose a segment"),
        ({"reach": "contacts"}, "listed", "at least one contact"),
        ({"name": ""}, "name", "required"),
    ],
)
def test_an_incomplete_audience_is_told_at_its_field(
    operator: Client, parts: dict[str, Any], changes: dict[str, str], field: str, words: str
) -> None:
    answer = operator.post(reverse(ADD), form(parts, 100, **changes))
    assert words in str(answer.context["adminform"].form.errors[field])


def test_shares_that_do_not_add_up_are_refused_and_what_was_typed_is_kept(
    operator: Client, parts: dict[str, Any]
) -> None:
    answer = operator.post(reverse(ADD), form(parts, 60, 30))
    assert "add up to 100" in answer.content.decode()
    assert answer.context["adminform"].form["name"].value() == "Open day"
    with all_tenants():
        assert not Broadcast.objects.exists()


def test_contacts_are_listed_by_their_external_ids(
    operator: Client, parts: dict[str, Any], acme: Tenant
) -> None:
    with all_tenants():
        named = [contact.external_id for contact in factories.ContactFactory.create_batch(2, tenant=acme)]
    listed = f"{named[0]}, {named[1]}\n{named[0]}"
    operator.post(reverse(ADD), form(parts, 100, reach="contacts", listed=listed))
    assert the_broadcast().audience == {"contacts": named}


def test_another_tenants_template_is_no_choice(operator: Client, parts: dict[str, Any], bolt: Tenant) -> None:
    with all_tenants():
        theirs = factories.MessageTemplateFactory.create(tenant=bolt)
    answer = operator.post(reverse(ADD), form(parts | {"first": theirs}, 100))
    assert answer.status_code == 200
    assert "valid choice" in answer.content.decode()
    with all_tenants():
        assert not Broadcast.objects.exists()


def test_preflight_counts_and_writes_nothing(operator: Client, parts: dict[str, Any]) -> None:
    operator.post(reverse(ADD), form(parts, 100))
    broadcast = the_broadcast()
    answer = operator.post(reverse("admin:messaging_broadcast_act", args=(broadcast.pk, "preflight")))
    assert answer.context["preflight"].sendable == 3
    with all_tenants():
        assert not Message.objects.exists()


def test_it_is_launched_paused_resumed_and_cancelled_by_its_buttons(
    operator: Client, parts: dict[str, Any]
) -> None:
    operator.post(reverse(ADD), form(parts, 100))
    for verb, state, words in [
        ("launch", "running", "3 messages"),
        ("pause", "paused", "is paused"),
        ("resume", "running", "goes on"),
        ("cancel", "cancelled", "cancelled; 3 messages"),
    ]:
        answer = act(operator, the_broadcast(), verb)
        assert words in told(answer)
        assert the_broadcast().state == state


def test_what_cannot_be_done_is_refused_in_words(operator: Client, parts: dict[str, Any]) -> None:
    operator.post(reverse(ADD), form(parts, 100))
    broadcast = the_broadcast()
    assert "draft: it cannot be paused" in told(act(operator, broadcast, "pause"))
    assert the_broadcast().state == "draft"


def test_a_launch_is_refused_while_the_token_is_dead(operator: Client, parts: dict[str, Any]) -> None:
    operator.post(reverse(ADD), form(parts, 100))
    with all_tenants():
        type(parts["sender"].provider_token).objects.update(state="expired")
    answer = act(operator, the_broadcast(), "launch")
    assert "token" in told(answer).lower()
    assert the_broadcast().state == "draft"


@pytest.mark.parametrize("verb", ["launch", "cancel", "preflight"])
def test_nothing_happens_on_a_plain_get(operator: Client, parts: dict[str, Any], verb: str) -> None:
    operator.post(reverse(ADD), form(parts, 100))
    address = reverse("admin:messaging_broadcast_act", args=(the_broadcast().pk, verb))
    assert operator.get(address).status_code == 405
    assert the_broadcast().state == "draft"


def test_a_post_without_a_csrf_token_is_refused(parts: dict[str, Any], operator: Client) -> None:
    operator.post(reverse(ADD), form(parts, 100))
    operator.handler.enforce_csrf_checks = True
    answer = operator.post(reverse("admin:messaging_broadcast_act", args=(the_broadcast().pk, "launch")))
    assert answer.status_code == 403
    assert the_broadcast().state == "draft"


def test_a_viewer_sees_it_and_has_no_button(
    sign_in: Any, operator: Client, parts: dict[str, Any], acme: Tenant
) -> None:
    operator.post(reverse(ADD), form(parts, 100))
    viewer, broadcast = sign_in(acme, "viewer"), the_broadcast()
    page = viewer.get(reverse("admin:messaging_broadcast_change", args=(broadcast.pk,)))
    assert page.status_code == 200
    assert page.context["object_actions"] == []
    assert viewer.get(reverse(ADD)).status_code == 403
    assert (
        viewer.post(reverse("admin:messaging_broadcast_act", args=(broadcast.pk, "launch"))).status_code
        == 403
    )
    assert the_broadcast().state == "draft"


def test_a_launched_one_can_be_neither_changed_nor_deleted(operator: Client, parts: dict[str, Any]) -> None:
    operator.post(reverse(ADD), form(parts, 100))
    broadcast = the_broadcast()
    act(operator, broadcast, "launch")
    changed = operator.post(
        reverse("admin:messaging_broadcast_change", args=(broadcast.pk,)), form(parts, 100, name="Other")
    )
    assert changed.status_code == 403
    gone = operator.post(reverse("admin:messaging_broadcast_delete", args=(broadcast.pk,)), {"post": "yes"})
    assert gone.status_code == 403
    assert the_broadcast().name == "Open day"


def test_a_draft_is_changed_and_deleted(operator: Client, parts: dict[str, Any]) -> None:
    operator.post(reverse(ADD), form(parts, 100))
    broadcast = the_broadcast()
    address = reverse("admin:messaging_broadcast_change", args=(broadcast.pk,))
    page = operator.get(address)
    formset = page.context["inline_admin_formsets"][0].formset
    data = form(parts, 100, name="Renamed") | {
        "steps-INITIAL_FORMS": 1,
        "steps-0-id": formset.forms[0].instance.pk,
        "steps-0-broadcast": broadcast.pk,
    }
    assert operator.post(address, data).status_code == 302
    assert the_broadcast().name == "Renamed"
    operator.post(reverse("admin:messaging_broadcast_delete", args=(broadcast.pk,)), {"post": "yes"})
    with all_tenants():
        assert not Broadcast.objects.exists()


def test_its_progress_is_told_as_the_contract_says(operator: Client, parts: dict[str, Any]) -> None:
    operator.post(reverse(ADD), form(parts, 100))
    broadcast = the_broadcast()
    act(operator, broadcast, "launch")
    told_by = operator.get(reverse("admin:messaging_broadcast_progress", args=(broadcast.pk,))).json()
    assert (told_by["state"], told_by["total"], told_by["queued"]) == ("running", 3, 3)


def test_a_pause_says_why_and_what_to_do(operator: Client, parts: dict[str, Any]) -> None:
    operator.post(reverse(ADD), form(parts, 100))
    broadcast = the_broadcast()
    act(operator, broadcast, "launch")
    with all_tenants():
        Broadcast.objects.update(state="paused", pause_reason="token", pause_detail="190: expired")
    page = operator.get(reverse("admin:messaging_broadcast_change", args=(broadcast.pk,))).content.decode()
    assert "no longer takes the token" in page
    assert "190: expired" in page


def test_doubt_is_settled_by_a_person(operator: Client, acme: Tenant) -> None:
    with all_tenants():
        message = factories.MessageFactory.create(tenant=acme, state="in_doubt")
        other = factories.MessageFactory.create(tenant=acme, state="in_doubt", step=message.step)
    operator.post(reverse("admin:messaging_message_act", args=(message.pk, "settle_sent")))
    operator.post(
        reverse("admin:messaging_message_changelist"),
        {"action": "mark_failed", "_selected_action": [other.pk]},
    )
    with all_tenants():
        assert Message.objects.get(pk=message.pk).state == "accepted"
        assert Message.objects.get(pk=other.pk).state == "failed"


def doubtful(acme: Tenant, *minutes: int) -> Broadcast:
    """A completed broadcast with a message in doubt for each of these."""
    with all_tenants():
        step = factories.BroadcastStepFactory.create(tenant=acme, state="done")
        Broadcast.objects.filter(pk=step.broadcast_id).update(state="completed")
        for since in minutes:
            began = now() - timedelta(minutes=since)
            factories.MessageFactory.create(tenant=acme, step=step, state="in_doubt", in_doubt_at=began)
        return Broadcast.objects.get()


def test_sending_again_what_is_in_doubt_says_how_many_and_the_risk_first(
    operator: Client, acme: Tenant
) -> None:
    broadcast = doubtful(acme, 5, 15, 90)
    address = reverse("admin:messaging_broadcast_act", args=(broadcast.pk, "resend_in_doubt"))

    asked = operator.post(address)

    assert [(choice["minutes"], choice["count"]) for choice in asked.context["choices"]] == [(10, 2), (60, 1)]
    assert "may get it twice" in asked.content.decode()
    with all_tenants():
        assert Message.objects.filter(state="in_doubt").count() == 3, "nothing is done by looking"

    answer = operator.post(address, {"older_than_minutes": "60"}, follow=True)
    assert "1 messages in doubt are sent again" in told(answer)
    assert the_broadcast().state == "running"
    with all_tenants():
        assert sorted(Message.objects.values_list("state", flat=True)) == ["in_doubt", "in_doubt", "queued"]


@pytest.mark.parametrize("minutes", ["0", "-3", "soon", "9" * 12])
def test_how_long_in_doubt_cannot_be_made_up(operator: Client, acme: Tenant, minutes: str) -> None:
    broadcast = doubtful(acme, 90)
    address = reverse("admin:messaging_broadcast_act", args=(broadcast.pk, "resend_in_doubt"))
    answer = operator.post(address, {"older_than_minutes": minutes}, follow=True)
    assert "Say how long they have been in doubt" in told(answer)
    with all_tenants():
        assert Message.objects.filter(state="in_doubt").count() == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "running"}, "campaign is paused"),
        ({"state": "cancelled", "pause_detail": "Cancelled: its campaign was completed."}, "was completed"),
        ({"state": "draft", "pause_detail": "Not launched when it was due: no."}, "could not be launched"),
        ({"state": "paused", "pause_reason": "fault", "pause_detail": "E1"}, "Our own program failed"),
    ],
    ids=lambda value: value.get("state") if isinstance(value, dict) else "",
)
def test_why_nothing_goes_out_stands_on_its_page_and_in_the_list(
    operator: Client, acme: Tenant, changes: dict[str, str], words: str
) -> None:
    with all_tenants():
        step = factories.BroadcastStepFactory.create(tenant=acme, state="running")
        type(step.broadcast.campaign).objects.update(state="paused")
        Broadcast.objects.filter(pk=step.broadcast_id).update(launched_at=now(), **changes)
    broadcast = the_broadcast()
    page = operator.get(reverse("admin:messaging_broadcast_change", args=(broadcast.pk,)))
    assert words in page.content.decode()
    if changes["state"] == "running":
        listed = operator.get(reverse("admin:messaging_broadcast_changelist")).content.decode()
        assert "Its campaign is paused" in listed


def test_staff_first_say_whose_a_new_broadcast_is(sign_in: Any, parts: dict[str, Any], acme: Tenant) -> None:
    staff = sign_in()
    assert "Whose will it be?" in staff.get(reverse(ADD)).content.decode()
    staff.post(reverse("choose_tenant"), {"tenant": acme.pk, "next": reverse(ADD)})
    staff.post(reverse(ADD), form(parts, 100))
    assert the_broadcast().tenant == acme
