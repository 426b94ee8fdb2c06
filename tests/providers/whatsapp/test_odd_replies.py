"""What Meta might say that no column takes: cleaned where it enters, never read as something else."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from providers import whatsapp
from providers.base import Done, Failed, InDoubt, Reply
from tests.providers.fit import unfit

ATTEMPT = "0192f000-0000-7000-8000-000000000001"
LONE = b'"\\ud800"'
LONG = "wamid." + "A" * 200


def refused(words: bytes, code: bytes = b"131026") -> Reply:
    return Reply(400, {}, b'{"error":{"code":%s,"message":%s}}' % (code, words))


def accepted(wamid: bytes) -> Reply:
    return Reply(200, {}, b'{"messages":[{"id":%s,"message_status":"accepted"}]}' % wamid)


REFUSALS = [
    ("NUL", refused(b'"bad\\u0000words"'), Failed("131026", "badwords")),
    (
        "other controls",
        refused(b'"bad\\u001b[31m\\u0085\\u007fwords\\u0000"'),
        Failed("131026", "bad[31mwords"),
    ),
    ("a lone surrogate", refused(b'"bad\\ud800words"'), Failed("131026", "badwords")),
    ("a line of its own", refused(b'"two\\nlines"'), Failed("131026", "two\nlines")),
    ("words that are none", refused(b"[1]"), Failed("131026", "")),
    ("a number for words", refused(b"7"), Failed("131026", "7")),
    ("too many words", refused(b'"%s"' % (b"w" * 9_000)), Failed("131026", "w" * 500)),
    ("a long code", refused(b'"no"', b'"%s"' % (b"9" * 5_000)), Failed("9" * 32, "no")),
    ("a huge code", refused(b'"no"', b"1" + b"0" * 400), Failed("1" + "0" * 31, "no")),
    ("a code with NUL", refused(b'"no"', b'"13\\u00001026"'), Failed("131026", "no")),
]


@pytest.mark.parametrize(("reply", "outcome"), [case[1:] for case in REFUSALS], ids=[c[0] for c in REFUSALS])
def test_a_refusal_is_cleaned(reply: Reply, outcome: Failed) -> None:
    assert whatsapp.read_send(reply) == outcome


ACCEPTANCES = [
    ("as it should be", b'"wamid.A"', Done({"wamid": "wamid.A"})),
    ("128 characters fit", b'"%s"' % (b"A" * 128), Done({"wamid": "A" * 128})),
    # A cut or mended id would match no status, or another's: without one, the attempt finds the row.
    ("200 characters", orjson.dumps(LONG), Done({"wamid": ""})),
    ("with NUL", b'"wamid.\\u0000A"', Done({"wamid": ""})),
    ("a lone surrogate", LONE, Done({"wamid": ""})),
    ("a number", b"5", InDoubt("HTTP 200 that cannot be read")),
    ("a huge number", b"1" + b"0" * 400, InDoubt("HTTP 200 that cannot be read")),
    ("an object", b"{}", InDoubt("HTTP 200 that cannot be read")),
    ("empty", b'""', InDoubt("HTTP 200 that cannot be read")),
]


@pytest.mark.parametrize(
    ("wamid", "outcome"), [case[1:] for case in ACCEPTANCES], ids=[case[0] for case in ACCEPTANCES]
)
def test_an_accepted_message_has_its_own_id_or_none(wamid: bytes, outcome: Done | InDoubt) -> None:
    assert whatsapp.read_send(accepted(wamid)) == outcome


def test_a_secret_across_the_cut_stays_hidden() -> None:
    secret = "EAAsecret-secret"
    reply = refused(b'"%s%s"' % (b"w" * 490, secret.encode()))
    outcome = whatsapp.read_send(reply, secrets=(secret,))
    assert isinstance(outcome, Failed)
    assert "EAA" not in outcome.detail


ODD: list[bytes] = [
    b'"\\u0000"',
    b'"a\\u0000b"',
    LONE,
    b'"%s"' % (b"x" * 5_000),
    b"1" + b"0" * 400,
    b"-5",
    b"1e99",
    b"null",
    b"[]",
    b'{"a\\u0000":"\\udfff"}',
]
PLACES = [
    b'{"id":@,"status":"failed","timestamp":@,"recipient_id":@,"biz_opaque_callback_data":"%s"}'
    % ATTEMPT.encode(),
    b'{"id":"w","status":@,"biz_opaque_callback_data":@}',
    b'{"id":"w","status":"failed","errors":[{"code":@,"title":@,"error_data":{"details":@}}]}',
    b'{"id":"w","status":"sent","pricing":{"category":@,"billable":@}}',
]
VALUES = [
    ("messages", b'{"metadata":{"phone_number_id":@},"statuses":[%s]}' % b",".join(PLACES)),
    (
        "messages",
        (
            b'{"metadata":{"phone_number_id":"1"},"messages":[{"id":@,"from":@,"timestamp":@,"type":"text","text":'
            b'{"body":@},"context":{"id":@},"from_user_id":@},{"id":"w","from":@,"type":@}]}'
        ),
    ),
    (
        "message_template_status_update",
        b'{"event":@,"message_template_id":@,"message_template_name":@,"message_template_language":@,"reason":@}',
    ),
    (
        "message_template_quality_update",
        b'{"message_template_name":@,"message_template_language":@,"new_quality_score":@}',
    ),
    ("phone_number_quality_update", b'{"display_phone_number":@,"event":@,"current_limit":@}'),
    (
        "account_update",
        (
            b'{"event":@,"phone_number":@,"ban_info":{"waba_ban_state":@},"restriction_info":[{"restriction_type":@}]'
            b',"violation_info":{"violation_type":@},"waba_info":{"waba_id":@}}'
        ),
    ),
    (
        "user_preferences",
        (
            b'{"metadata":{"phone_number_id":@},"user_preferences":[{"wa_id":@,"user_id":@,"category":@,"value":@,'
            b'"timestamp":@}]}'
        ),
    ),
    ("odd \\u0000 field", b"@"),
]


@pytest.mark.parametrize("odd", ODD, ids=[str(odd[:12]) for odd in ODD])
@pytest.mark.parametrize(("field", "value"), VALUES, ids=[field for field, _ in VALUES])
def test_a_webhook_is_cleaned_whatever_stands_in_it(field: str, value: bytes, odd: bytes) -> None:
    body = (
        b'{"object":"whatsapp_business_account","entry":[{"id":@,"time":@,"changes":['
        b'{"field":"%s","value":%s}]}]}' % (field.encode(), value)
    ).replace(b"@", odd)
    events = whatsapp.parse_webhook(body)
    assert events
    for event in events:
        assert not unfit(event), event


def test_one_odd_update_does_not_hide_the_others() -> None:
    body = (
        b'{"object":"whatsapp_business_account","entry":[{"id":"1","changes":[{"field":"messages","value":'
        b'{"metadata":{"phone_number_id":"2"},"statuses":[{"id":"\\ud800","status":"sent"},'
        b'{"id":"wamid.B","status":"sent","timestamp":"1790000000"}]}}]}]}'
    )
    statuses = [event for event in whatsapp.parse_webhook(body) if isinstance(event, whatsapp.StatusUpdate)]
    assert [status.wamid for status in statuses] == ["wamid.B"]


def test_a_status_with_an_id_that_does_not_fit_is_found_by_its_attempt() -> None:
    def read(**more: str) -> Any:
        value = {"metadata": {"phone_number_id": "2"}, "statuses": [{"id": LONG, "status": "sent", **more}]}
        entry = {"id": "1", "changes": [{"field": "messages", "value": value}]}
        (event,) = whatsapp.parse_webhook(
            orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})
        )
        return event

    found = read(biz_opaque_callback_data=ATTEMPT)
    assert (found.wamid, found.attempt, found.status) == ("", ATTEMPT, "sent")
    assert isinstance(read(), whatsapp.Unknown)


@pytest.mark.parametrize("time", ["9" * 400, "253402300799", "99999999999999", "1e99", "-99999999999999"])
def test_a_time_that_cannot_be_is_the_time_of_arrival(time: str) -> None:
    value = {"event": "PAUSED", "message_template_name": "offer", "message_template_language": "en"}
    entry = {"id": "1", "time": "@", "changes": [{"field": "message_template_status_update", "value": value}]}
    body = orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})
    (event,) = whatsapp.parse_webhook(body.replace(b'"@"', time.encode()))
    assert isinstance(event, whatsapp.TemplateStatus)
    assert 2000 < event.at.year < 3000


def test_what_is_read_of_an_account_is_cleaned() -> None:
    row = {
        "id": "9\0",
        "name": "offer" * 200,
        "language": "en\0",
        "components": [{"type": "BODY", "text": "H\0i"}],
    }
    page = whatsapp.read_templates(Reply(200, {}, orjson.dumps({"data": [row]})))
    assert not unfit(page.templates[0])
    assert page.templates[0].body == "Hi"
    number = whatsapp.read_number(
        Reply(200, {}, orjson.dumps({"id": "1\0", "verified_name": "A\0cme" * 500}))
    )
    assert not unfit(number)
