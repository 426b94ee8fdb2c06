"""What Meta posts is checked, then read; what is strange becomes a value."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest

from providers import whatsapp
from providers.base import BadSignature, Unreadable
from providers.whatsapp import (
    AccountUpdate,
    InboundMessage,
    NumberQuality,
    StatusUpdate,
    TemplateQuality,
    TemplateStatus,
    Unknown,
    UserPreference,
)

DATA = Path(__file__).parents[1] / "testdata/whatsapp"
NUMBER, WABA = "106540352242922", "555000111"
UUID = "0192f000-0000-7000-8000-000000000001"


def at(second: int) -> datetime:
    return datetime.fromtimestamp(1_700_000_000 + second, UTC)


def account(
    event: str, number: str = "", restrictions: tuple[str, ...] = (), ban: str = "", violation: str = ""
) -> AccountUpdate:
    return AccountUpdate(WABA, event, number, restrictions, ban, violation, at(0))


HEALTHY = "This message was not delivered to maintain healthy ecosystem engagement."
WORDS = "In order to maintain a healthy ecosystem engagement, the message failed to be delivered."
EVENTS = {
    "statuses": [
        StatusUpdate("wamid.A", "sent", at(1), "4915112345678", UUID, NUMBER, "", "", "", "marketing", True),
        StatusUpdate("wamid.A", "read", at(9), "4915112345678", UUID, NUMBER),
        StatusUpdate("wamid.B", "failed", at(2), "15550002222", None, NUMBER, "131049", HEALTHY, WORDS),
        StatusUpdate("wamid.C", "played", at(3), "15550003333", None, NUMBER, "", "", "", "service", False),
    ],
    "inbound": [
        InboundMessage("wamid.I1", at(10), "4915112345678", "DE.123", "text", "STOP", "", "", NUMBER, WABA),
        InboundMessage(
            "wamid.I2",
            at(11),
            "4915112345678",
            "DE.123",
            "button",
            "No more of these",
            "optout",
            "wamid.A",
            NUMBER,
            WABA,
        ),
        InboundMessage(
            "wamid.I3", at(12), "15550002222", "", "interactive", "Tomorrow", "row-2", "", NUMBER, WABA
        ),
        InboundMessage("wamid.I4", at(13), "15550002222", "", "image", "", "", "", NUMBER, WABA),
        InboundMessage("wamid.I5", at(14), "", "US.9", "text", "hi there", "", "", NUMBER, WABA),
    ],
    "template_paused": [TemplateStatus(WABA, "594425479261596", "offer", "en_US", "PAUSED", "", at(0))],
    "template_quality": [
        TemplateQuality(WABA, "594425479261596", "offer", "en_US", "GREEN", "YELLOW", at(0)),
    ],
    "number_quality": [
        NumberQuality(WABA, "15550001111", "DOWNGRADE", "TIER_10K", "TIER_100K", at(0)),
        NumberQuality(WABA, "15550001111", "THROUGHPUT_UPGRADE", "TIER_UNLIMITED", "", at(0)),
    ],
    "account_restricted": [
        account(
            "ACCOUNT_RESTRICTION",
            "15550001111",
            ("RESTRICTED_BIZ_INITIATED_MESSAGING", "RESTRICTED_ADD_PHONE_NUMBER_ACTION"),
        ),
        account("DISABLED_UPDATE", ban="DISABLE"),
        account("DISABLED_UPDATE", ban="REINSTATE"),
        account("ACCOUNT_VIOLATION", violation="SCAM"),
        account("VERIFIED_ACCOUNT", "15550001111"),
    ],
    "user_preferences": [
        UserPreference("4915112345678", "", "marketing_messages", "stop", NUMBER, at(20), WABA),
        UserPreference("", "US.9", "marketing_messages", "resume", NUMBER, at(21), WABA),
        Unknown("user_preferences", {"category": "marketing_messages", "value": "stop"}),
    ],
    "strange": [
        Unknown("flows", {"event": "FLOW_STATUS_CHANGE"}),
        Unknown("messages", "what?"),
        Unknown("", {}),
        Unknown("messages.statuses", {"id": "wamid.X"}),
        Unknown("messages.statuses", {"status": "sent"}),
        Unknown("messages.statuses", {"id": 7, "status": "sent"}),
        Unknown("messages.statuses", None),
        Unknown("messages.statuses", "x"),
        StatusUpdate("wamid.Y", "sent", at(0), "", None, NUMBER),
        Unknown("messages.messages", {"type": "text"}),
        Unknown("messages.messages", 12),
        Unknown("messages.errors", {"code": 131000}),
        Unknown("message_template_status_update", {"message_template_name": "offer"}),
    ],
}


@pytest.mark.parametrize("name", EVENTS)
def test_a_webhook_is_read(name):
    assert whatsapp.parse_webhook((DATA / f"{name}.json").read_bytes()) == EVENTS[name]


def test_only_some_account_updates_stop_the_sending():
    updates = whatsapp.parse_webhook((DATA / "account_restricted.json").read_bytes())
    assert [isinstance(update, AccountUpdate) and update.restricts for update in updates] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_status_without_a_time_counts_as_received():
    body = (
        b'{"object":"whatsapp_business_account","entry":[{"changes":[{"field":"messages",'
        b'"value":{"statuses":[{"id":"w","status":"sent"}]}}]}]}'
    )
    assert whatsapp.parse_webhook(body, received_at=at(77)) == [
        StatusUpdate("w", "sent", at(77), "", None, "")
    ]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b"null", b'"x"', b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_unreadable(body):
    with pytest.raises(Unreadable):
        whatsapp.parse_webhook(body)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"object":"page","entry":[]}',
        b'{"object":"whatsapp_business_account"}',
        b'{"object":"whatsapp_business_account","entry":{}}',
        b'{"object":"whatsapp_business_account","entry":[null,{"changes":[7,{"field":9,"value":null}]}]}',
        b'{"object":"whatsapp_business_account","entry":[{"time":1e300,"changes":[]}]}',
        b'{"object":"whatsapp_business_account","entry":[{"changes":[{"field":"account_update","value":{}}]}]}',
        b'{"object":"whatsapp_business_account","entry":[{"changes":[{"field":"user_preferences","value":{}}]}]}',
    ],
)
def test_any_json_object_is_read_without_an_error(body):
    assert isinstance(whatsapp.parse_webhook(body), list)


def test_a_full_post_of_a_thousand_updates_is_read_in_order():
    one = orjson.loads((DATA / "statuses.json").read_bytes())
    value = one["entry"][0]["changes"][0]["value"]
    value["statuses"] = [{**value["statuses"][0], "id": f"wamid.{n}"} for n in range(1_000)]
    events = whatsapp.parse_webhook(orjson.dumps(one))
    assert [event.wamid for event in events if isinstance(event, StatusUpdate)] == [
        f"wamid.{n}" for n in range(1_000)
    ]


def test_a_signature_fits_its_own_bytes_only():
    body = (DATA / "statuses.json").read_bytes()
    header = whatsapp.sign(body, "app-secret")
    assert header.startswith("sha256=")
    whatsapp.verify(body, header, ["app-secret"])
    whatsapp.verify(body, header, ["another", "app-secret"])
    for forged in (
        (body + b" ", header, ["app-secret"]),
        (body, header, ["another"]),
        (body, header, []),
        (body, header, [""]),
        (body, whatsapp.sign(body, ""), [""]),
        (body, None, ["app-secret"]),
        (body, "", ["app-secret"]),
        (body, header.removeprefix("sha256="), ["app-secret"]),
        (body, header.upper(), ["app-secret"]),
        (body, "sha256=é", ["app-secret"]),
    ):
        with pytest.raises(BadSignature):
            whatsapp.verify(*forged)


def test_a_known_signature_from_rfc_4231():
    assert whatsapp.sign(b"what do ya want for nothing?", "Jefe") == (
        "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )


@pytest.mark.parametrize(
    ("params", "token", "answer"),
    [
        ({"hub.mode": "subscribe", "hub.challenge": "42", "hub.verify_token": "v"}, "v", "42"),
        ({"hub.mode": "subscribe", "hub.challenge": "42", "hub.verify_token": "w"}, "v", None),
        ({"hub.mode": "unsubscribe", "hub.challenge": "42", "hub.verify_token": "v"}, "v", None),
        ({"hub.mode": "subscribe", "hub.challenge": "42", "hub.verify_token": ""}, "", None),
        ({"hub.mode": "subscribe", "hub.challenge": "42", "hub.verify_token": "é"}, "v", None),
        ({"hub.mode": "subscribe", "hub.verify_token": "v"}, "v", None),
        ({}, "v", None),
    ],
)
def test_the_handshake_answers_only_who_knows_the_token(params, token, answer):
    assert whatsapp.handshake(params, token) == answer


@pytest.mark.parametrize(
    "junk", [b'{"field":"messages","value":{"statuses":[%s1]}}' % (b"1," * 200_000), b"{}," * 200_000 + b"{}"]
)
def test_a_body_full_of_what_nobody_knows_is_not_read_to_its_end(junk: bytes) -> None:
    """One tenant may sign three megabytes of it, and everybody's webhooks wait until it is applied."""
    good = b'{"field":"messages","value":{"statuses":[{"id":"w1","status":"read"}]}}'
    body = b'{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[%s,%s]}]}' % (good, junk)

    events = whatsapp.parse_webhook(body)

    assert isinstance(events[0], StatusUpdate)
    assert len(events) <= 1_002
