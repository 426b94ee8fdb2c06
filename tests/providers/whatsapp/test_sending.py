"""What a send becomes, case by case as in testdata/whatsapp/sends.json."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import orjson
import pytest

from providers import whatsapp
from providers.base import InDoubt, Lost, Reply, Retry, Unsent, Usage

CASES = json.loads((Path(__file__).parents[1] / "testdata/whatsapp/sends.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_send_becomes(case):
    body = case["body"] if isinstance(case["body"], str) else json.dumps(case["body"])
    reply = Reply(case["status"], case.get("headers", {}), body.encode())
    outcome = whatsapp.read_send(reply, attempt_number=case.get("attempt_number", 1))
    expected = dict(case["outcome"])
    assert type(outcome).__name__ == expected.pop("is_")
    for name, value in expected.items():
        found = getattr(outcome, name)
        assert (found.total_seconds() if isinstance(found, timedelta) else found) == value


def test_every_code_we_know_has_a_case():
    seen = {str(case["outcome"].get("code")) for case in CASES}
    known = {str(code) for code in whatsapp.ERRORS if not 200 < code < 299}
    assert known <= seen


def test_a_send_that_never_left_is_tried_again():
    assert whatsapp.read_send(Unsent("refused")) == Retry("unsent", "refused")


def test_a_lost_send_is_in_doubt():
    assert whatsapp.read_send(Lost("reset")) == InDoubt("reset")


def test_the_call_is_what_meta_asks_for():
    components = [{"type": "body", "parameters": [{"type": "text", "text": "Ann"}]}]
    call = whatsapp.send_template(
        base_url="https://graph.example.invalid",
        version="v25.0",
        phone_number_id="106",
        token="t0k",
        to="+4915112345678",
        template="order_update",
        language="en_US",
        components=components,
        attempt="u-1",
        timeout=7.0,
    )
    assert (call.method, call.timeout, call.secrets) == ("POST", 7.0, ("t0k",))
    assert call.url == "https://graph.example.invalid/v25.0/106/messages"
    assert dict(call.headers) == {"authorization": "Bearer t0k", "content-type": "application/json"}
    assert orjson.loads(call.body) == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": "4915112345678",
        "type": "template",
        "template": {"name": "order_update", "language": {"code": "en_US"}, "components": components},
        "biz_opaque_callback_data": "u-1",
    }


def test_a_template_without_parameters_has_no_components():
    call = whatsapp.send_template(
        base_url="",
        version="v25.0",
        phone_number_id="1",
        token="t",
        to="1",
        template="a",
        language="en",
        attempt="u",
    )
    assert "components" not in orjson.loads(call.body)["template"]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (131026, whatsapp.ErrorClass.RECIPIENT),
        ("131026", whatsapp.ErrorClass.RECIPIENT),
        (250, whatsapp.ErrorClass.CREDENTIALS),
        (300, whatsapp.ErrorClass.UNKNOWN),
        ("", whatsapp.ErrorClass.UNKNOWN),
        ("²", whatsapp.ErrorClass.UNKNOWN),
        ("9" * 5_000, whatsapp.ErrorClass.UNKNOWN),
        (None, whatsapp.ErrorClass.UNKNOWN),
    ],
)
def test_codes_of_answers_and_of_webhooks_are_judged_alike(code, kind):
    assert whatsapp.classify(code) is kind


def test_only_one_code_is_a_marketing_opt_out():
    assert [code for code in whatsapp.ERRORS if whatsapp.is_marketing_opt_out(code)] == [131050]
    assert whatsapp.is_marketing_opt_out("131050")
    assert not whatsapp.is_marketing_opt_out("")


def test_every_code_has_a_title_and_an_unknown_one_none():
    assert all(whatsapp.title(code) for code in whatsapp.ERRORS)
    assert whatsapp.title("123456789") == ""


def test_the_groups_for_the_layers_above():
    assert {"132000", "132001", "100"} <= whatsapp.CONTENT_CODES
    assert frozenset({"131049", "130472"}) == whatsapp.ECOSYSTEM_CODES
    assert frozenset({"131048", "368", "130497", "131031", "131064"}) == whatsapp.RESTRICTED_CODES


@pytest.mark.parametrize(
    ("headers", "minutes"),
    [
        ({}, None),
        ({"x-app-usage": '{"call_count":99,"total_time":25,"total_cputime":25}'}, None),
        ({"x-app-usage": '{"call_count":28,"total_time":100,"total_cputime":25}'}, 5),
        (
            {"x-business-use-case-usage": '{"1":[{"call_count":97,"estimated_time_to_regain_access":0}]}'},
            None,
        ),
        ({"x-business-use-case-usage": '{"1":[{"call_count":9,"estimated_time_to_regain_access":12}]}'}, 12),
        ({"x-app-usage": '{"call_count":100}', "x-business-use-case-usage": '{"1":[{"call_count":100}]}'}, 5),
        ({"x-business-use-case-usage": '{"1":[{"estimated_time_to_regain_access":1e99}]}'}, 24 * 60),
        ({"x-app-usage": "nonsense"}, None),
        ({"x-app-usage": "[1]", "x-business-use-case-usage": "[1]"}, None),
    ],
)
def test_used_up_allowances_are_read_from_the_headers(headers, minutes):
    wait = whatsapp.exhausted(Reply(200, headers))
    assert wait == (timedelta(minutes=minutes) if minutes else None)


@pytest.mark.parametrize(
    ("headers", "usage"),
    [
        ({}, None),
        ({"x-app-usage": "nonsense", "x-business-use-case-usage": "[1]"}, None),
        ({"x-app-usage": '{"call_count":"28"}'}, None),
        ({"x-app-usage": '{"call_count":28,"total_time":45,"total_cputime":true}'}, Usage("calls", 0.45)),
        ({"x-app-usage": '{"call_count":120}'}, Usage("calls", 1.2)),
        ({"x-app-usage": '{"call_count":1%s}' % ("0" * 400)}, Usage("calls", 10.0)),
        ({"x-app-usage": '{"call_count":NaN,"total_time":-5}'}, Usage("calls", 0.0)),
        ({"x-business-use-case-usage": '{"1":[{"estimated_time_to_regain_access":-1e300}]}'}, None),
        (
            {
                "x-app-usage": '{"call_count":28}',
                "x-business-use-case-usage": '{"1":[{"call_count":97,"estimated_time_to_regain_access":3}],'
                '"2":[{"call_count":9,"estimated_time_to_regain_access":12}]}',
            },
            Usage("calls", 0.97, regain_after=timedelta(minutes=12)),
        ),
        (
            {"x-business-use-case-usage": '{"1":{"estimated_time_to_regain_access":1e99}}'},
            Usage("calls", regain_after=timedelta(days=1)),
        ),
    ],
)
def test_the_share_that_is_used_is_read_from_the_headers(headers, usage):
    assert whatsapp.read_usage(Reply(200, headers)) == usage
