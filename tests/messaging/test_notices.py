"""What people and Meta tell us besides statuses: stop, start, preferences, templates, numbers, accounts."""

from __future__ import annotations

import random
from itertools import permutations
from typing import Any

import orjson
import pytest

from campaigns.models import Contact
from engine.models import Incident, Lane
from messaging.actions import launch_broadcast, suppress
from messaging.models import Broadcast, Correspondent, Message, MessageTemplate, Sender, Suppression
from messaging.notices import phones_of
from tenants.models import Tenant
from tests.messaging.build import (
    apply_whatsapp,
    make_broadcast,
    make_contacts,
    make_sender,
    make_template,
    step_states,
)

T0 = 1_790_000_000
ANN = "491510000001"


def change(field: str, value: dict[str, Any], waba: str = "waba-acme", at: int = 0) -> bytes:
    entry = {"id": waba, "time": T0 + at, "changes": [{"field": field, "value": value}]}
    return orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})


def wrote(sender: Sender, text: str, at: int = 0, wa_id: str = ANN, **fields: Any) -> bytes:
    message = {
        "from": wa_id,
        "id": f"wamid.in{at}",
        "timestamp": str(T0 + at),
        "type": "text",
        "text": {"body": text},
        **fields,
    }
    return change("messages", {"metadata": {"phone_number_id": sender.address}, "messages": [message]})


def prefers(sender: Sender, value: str, at: int = 0, **who: str) -> bytes:
    preference = {
        "category": "marketing_messages",
        "value": value,
        "timestamp": T0 + at,
        **(who or {"wa_id": ANN}),
    }
    metadata = {"phone_number_id": sender.address}
    return change("user_preferences", {"metadata": metadata, "user_preferences": [preference]})


def template_event(template: MessageTemplate, event: str, at: int = 0, waba: str = "waba-acme") -> bytes:
    value = {
        "event": event,
        "message_template_id": 77,
        "message_template_name": template.name,
        "message_template_language": template.language,
        "reason": "LOW_QUALITY",
    }
    return change("message_template_status_update", value, waba, at)


def suppressed(tenant: Tenant) -> set[tuple[str, str]]:
    return set(Suppression.objects.filter(tenant=tenant).values_list("phone", "channel"))


# -- people

WORDS: list[tuple[str, bool]] = [
    ("STOP", True),
    (" stop. ", True),
    ("Unsubscribe", True),
    ("OPTOUT", True),
    ("please stop the music", False),
    ("START", False),
    ("", False),
]


@pytest.mark.parametrize(("text", "stops"), WORDS)
def test_who_writes_stop_gets_nothing_more_from_that_tenant(
    acme: Tenant, globex: Tenant, text: str, stops: bool
) -> None:
    sender = make_sender(acme)
    make_sender(globex)
    apply_whatsapp([wrote(sender, text)])
    assert suppressed(acme) == ({(f"+{ANN}", "whatsapp")} if stops else set())
    assert suppressed(globex) == set()


@pytest.mark.parametrize(
    ("last", "stopped"), [(("STOP", 30), True), (("START", 30), False), (("start!", 30), False)]
)
def test_the_latest_word_counts_in_whatever_order_and_however_often_they_come(
    acme: Tenant, last: tuple[str, int], stopped: bool
) -> None:
    sender = make_sender(acme)
    words = [("STOP", 10), ("START", 20), last]
    for order in permutations(words):
        Suppression.objects.all().delete()
        Correspondent.objects.all().delete()
        for text, at in order * 3:
            apply_whatsapp([wrote(sender, text, at)])
        assert bool(suppressed(acme)) is stopped, order
    dice, copies = random.Random(4), [wrote(sender, *word) for word in words * 10]
    dice.shuffle(copies)
    apply_whatsapp(copies)
    assert bool(suppressed(acme)) is stopped


def test_start_does_not_undo_what_somebody_else_decided(acme: Tenant) -> None:
    sender = make_sender(acme)
    suppress(tenant_id=acme.pk, phones=[f"+{ANN}"], channel="whatsapp", reason="lawyer's letter")
    apply_whatsapp([wrote(sender, "START")])
    assert suppressed(acme) == {(f"+{ANN}", "whatsapp")}


def test_preferences_stop_and_resume_marketing_only(acme: Tenant) -> None:
    sender = make_sender(acme)
    apply_whatsapp([prefers(sender, "stop", 1)])
    assert suppressed(acme) == {(f"+{ANN}", "whatsapp_marketing")}
    apply_whatsapp([prefers(sender, "resume", 2), prefers(sender, "stop", 1)])
    assert suppressed(acme) == set()


def test_somebody_known_by_user_id_alone_is_found_again(acme: Tenant, globex: Tenant) -> None:
    ours, theirs = make_sender(acme), make_sender(globex)
    apply_whatsapp([wrote(ours, "hello", from_user_id="u-1")])
    apply_whatsapp([prefers(theirs, "stop", user_id="u-1"), prefers(ours, "stop", user_id="u-unknown")])
    assert suppressed(acme) == suppressed(globex) == set()
    apply_whatsapp([prefers(ours, "stop", user_id="u-1")])
    assert suppressed(acme) == {(f"+{ANN}", "whatsapp_marketing")}


def test_a_stop_in_reply_counts_for_the_number_that_was_written_to(acme: Tenant) -> None:
    make_contacts(acme, 1)
    broadcast = make_broadcast(acme)
    launch_broadcast(broadcast_id=broadcast.pk)
    Message.objects.update(wamid="wamid.out")
    apply_whatsapp([wrote(broadcast.sender, "STOP", wa_id="499999", context={"id": "wamid.out"})])
    assert suppressed(acme) == {("+499999", "whatsapp"), (Contact.objects.get().phone, "whatsapp")}


@pytest.mark.parametrize(
    ("wa_id", "phones"),
    [
        ("491510000001", ["+491510000001"]),
        ("5215512345678", ["+5215512345678", "+525512345678"]),
        ("551187654321", ["+551187654321", "+5511987654321"]),
        ("5511987654321", ["+5511987654321"]),
    ],
)
def test_a_wa_id_stands_for_the_numbers_people_have(wa_id: str, phones: list[str]) -> None:
    assert phones_of(wa_id) == phones


# -- templates

EVENTS: list[tuple[str, str]] = [
    ("PAUSED", "paused"),
    ("DISABLED", "disabled"),
    ("REJECTED", "rejected"),
    ("FLAGGED", "approved"),
    ("SOMETHING_NEW", "approved"),
]


@pytest.mark.parametrize(("event", "state"), EVENTS)
def test_a_templates_state_follows_meta_and_pauses_its_steps(
    acme: Tenant, globex: Tenant, event: str, state: str
) -> None:
    make_contacts(acme, 4)
    template = make_template(acme, name="spring")
    namesake = make_template(globex, name="spring")
    make_sender(globex)
    broadcast = make_broadcast(acme, template, make_template(acme), shares=(50, 50))
    launch_broadcast(broadcast_id=broadcast.pk)

    apply_whatsapp([template_event(template, event)])

    template.refresh_from_db()
    namesake.refresh_from_db()
    assert (template.state, namesake.state) == (state, "approved")
    held = state != "approved"
    assert step_states(broadcast) == (["paused", "running"] if held else ["running", "waiting"])


def test_of_two_notices_on_a_template_the_later_one_counts(acme: Tenant) -> None:
    make_sender(acme)
    template = make_template(acme)
    apply_whatsapp([template_event(template, "REINSTATED", at=20)])
    apply_whatsapp([template_event(template, "PAUSED", at=10)])
    template.refresh_from_db()
    assert (template.state, template.vendor_id) == ("approved", "77")
    apply_whatsapp([template_event(template, "PAUSED", at=30), template_event(template, "REINSTATED", at=20)])
    template.refresh_from_db()
    assert template.state == "paused"


def test_a_templates_rating_is_kept(acme: Tenant) -> None:
    make_sender(acme)
    template = make_template(acme)
    value = {
        "new_quality_score": "RED",
        "message_template_name": template.name,
        "message_template_language": template.language,
    }
    apply_whatsapp([change("message_template_quality_update", value)])
    template.refresh_from_db()
    assert template.quality == "RED"


# -- numbers and accounts


def test_a_numbers_rating_is_kept_with_the_number_it_is_about(acme: Tenant) -> None:
    first = make_sender(acme)
    value = {"event": "FLAGGED", "display_phone_number": "+49 30 123456"}
    apply_whatsapp([change("phone_number_quality_update", value)])
    first.refresh_from_db()
    assert first.quality == "FLAGGED"  # the account's only one

    second = make_sender(acme, token=first.provider_token)
    Sender.objects.filter(pk=second.pk).update(display_number="0049-no, +4930123456")
    Sender.objects.filter(pk=second.pk).update(display_number="+4930 123456")
    apply_whatsapp([change("phone_number_quality_update", value | {"event": "UNFLAGGED"})])
    second.refresh_from_db()
    first.refresh_from_db()
    assert (first.quality, second.quality) == ("FLAGGED", "UNFLAGGED")


def test_a_restricted_account_stops_everything_on_it(acme: Tenant, globex: Tenant) -> None:
    running = []
    for tenant in (acme, globex):
        make_contacts(tenant, 1)
        broadcast = make_broadcast(tenant)
        launch_broadcast(broadcast_id=broadcast.pk)
        running.append(broadcast)
    value = {
        "event": "ACCOUNT_RESTRICTION",
        "restriction_info": [{"restriction_type": "RESTRICTED_BIZ_INITIATED_MESSAGING"}],
    }
    apply_whatsapp([change("account_update", value)])
    ours, theirs = (Broadcast.objects.get(pk=broadcast.pk) for broadcast in running)
    assert (ours.state, ours.pause_reason) == ("paused", "spam")
    assert theirs.state == "running"
    assert Lane.objects.get(pk=ours.sender.lane_id).pause_reason == "spam"
    assert Incident.objects.filter(kind="account_restricted", tenant=acme).count() == 1
    assert not Incident.objects.filter(tenant=globex).exists()

    apply_whatsapp(
        [change("account_update", {"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "REINSTATE"}})]
    )
    assert not Incident.objects.filter(kind="account_restricted", ended_at=None).exists()
    ours.refresh_from_db()
    assert ours.state == "paused", "nothing that the vendor stopped resumes by itself"


def test_good_news_of_an_account_stops_nothing(acme: Tenant) -> None:
    make_contacts(acme, 1)
    broadcast = make_broadcast(acme)
    launch_broadcast(broadcast_id=broadcast.pk)
    body = change("account_update", {"event": "VERIFIED_ACCOUNT", "phone_number": "1"})
    unknown = change("flows", {"event": "x"})
    assert apply_whatsapp([body, unknown, change("messages", {"statuses": [{"id": 5}]})]) == 3
    broadcast.refresh_from_db()
    assert broadcast.state == "running"
