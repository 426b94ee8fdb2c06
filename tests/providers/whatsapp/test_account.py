"""What Meta says of a token, a number and an account's templates."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers import whatsapp
from providers.base import Lost, Reply, Standing, Unreadable, Unsent

TOKEN = "t0k"
WHERE: dict[str, Any] = {"base_url": "https://graph.example.invalid", "version": "v25.0", "token": TOKEN}


def error(code: int, subcode: int | None = None) -> bytes:
    return json.dumps({"error": {"code": code, "error_subcode": subcode, "message": f"no {TOKEN}"}}).encode()


@pytest.mark.parametrize(
    ("response", "standing"),
    [
        (Reply(200, {}, b'{"id":"1"}'), Standing.ACTIVE),
        (Reply(401, {}, error(190, 463)), Standing.EXPIRED),
        (Reply(401, {}, error(190, 460)), Standing.REVOKED),
        (Reply(401, {}, error(190)), Standing.REVOKED),
        (Reply(403, {}, error(10)), Standing.REVOKED),
        (Reply(403, {}, error(200)), Standing.REVOKED),
        (Reply(400, {}, error(4)), Standing.THROTTLED),
        (Reply(400, {}, error(80007)), Standing.THROTTLED),
        (Reply(429, {}, b""), Standing.THROTTLED),
        (Reply(400, {"x-app-usage": '{"call_count":100}'}, error(1)), Standing.THROTTLED),
        (Reply(500, {}, error(1)), Standing.FAILING),
        (Reply(400, {}, error(100)), Standing.FAILING),
        (Reply(200, {}, b"<html>"), Standing.FAILING),
        (Reply(502, {}, b"<html>"), Standing.FAILING),
        (Unsent(f"refused {TOKEN}"), Standing.FAILING),
        (Lost(f"reset {TOKEN}"), Standing.FAILING),
    ],
)
def test_a_token_stands(response, standing):
    found, words = whatsapp.read_check(response, secrets=(TOKEN,))
    assert found is standing
    assert bool(words) is (standing is not Standing.ACTIVE)
    assert TOKEN not in words


def test_reads_are_asked_for_with_the_token_in_the_header_only():
    for call in (
        whatsapp.check_token(**WHERE),
        whatsapp.check_token(**WHERE, object_id="106"),
        whatsapp.get_number(**WHERE, phone_number_id="106"),
        whatsapp.list_templates(**WHERE, waba_id="555", after="MTA=", limit=50),
    ):
        assert call.method == "GET"
        assert call.headers["authorization"] == f"Bearer {TOKEN}"
        assert TOKEN not in call.url
        assert call.secrets == (TOKEN,)
    assert call.url.startswith("https://graph.example.invalid/v25.0/555/message_templates?")
    assert call.url.endswith("&limit=50&after=MTA%3D")


def test_a_number_is_read():
    body = {
        "id": "106",
        "display_phone_number": "+1 555",
        "quality_rating": "GREEN",
        "throughput": {"level": "HIGH"},
    }
    number = whatsapp.read_number(Reply(200, {}, json.dumps(body).encode()))
    assert number == whatsapp.Number("106", "+1 555", "", "GREEN", "HIGH")


def test_a_page_of_templates_is_read_and_names_the_next():
    body: dict[str, Any] = {
        "data": [
            {
                "id": "9",
                "name": "offer",
                "language": "en",
                "category": "MARKETING",
                "status": "APPROVED",
                "components": [
                    {"type": "HEADER", "format": "IMAGE"},
                    {"type": "BODY", "text": "Hi {{1}}, {{ 2 }} for {{1}}"},
                ],
            },
            {"name": "bare"},
            "no template",
        ],
        "paging": {"cursors": {"before": "a", "after": "b"}, "next": "https://…"},
    }
    page = whatsapp.read_templates(Reply(200, {}, json.dumps(body).encode()))
    assert page.after == "b"
    offer, bare = page.templates
    assert (offer.name, offer.status, offer.variables) == ("offer", "APPROVED", ("1", "2"))
    assert (bare.body, bare.variables, bare.components) == ("", (), ())
    del body["paging"]["next"]
    assert whatsapp.read_templates(Reply(200, {}, json.dumps(body).encode())).after is None


@pytest.mark.parametrize(
    "response",
    [
        Reply(401, {}, error(190)),
        Reply(200, {}, b"<html>"),
        Reply(200, {}, b"{}"),
        Reply(500, {}, b'{"data":[]}'),
        Lost(f"reset {TOKEN}"),
        Unsent(f"refused {TOKEN}"),
    ],
)
def test_templates_that_cannot_be_read_say_why(response):
    with pytest.raises(Unreadable) as caught:
        whatsapp.read_templates(response, secrets=(TOKEN,))
    assert str(caught.value)
    assert TOKEN not in str(caught.value)
