"""Who may sign a webhook, and the way in without the hot intake."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from django.conf import settings
from django.test import Client
from django_q.models import OrmQ

from config.webhooks import secrets
from engine.clock.tasks import run_queue
from engine.models import Receipt
from messaging.actions import launch_broadcast
from messaging.models import Message
from providers.whatsapp import sign
from tenants.models import ProviderToken, Tenant
from tests.messaging.build import make_broadcast, make_contacts, make_sender, make_token

URL = "/webhooks/whatsapp/"


@pytest.fixture(autouse=True)
def _no_memory() -> Iterator[None]:
    secrets.forget()
    yield
    secrets.forget()


def about(waba: str, *numbers: str) -> bytes:
    changes = [
        {"field": "messages", "value": {"metadata": {"phone_number_id": number}, "statuses": []}}
        for number in numbers
    ]
    return orjson.dumps({"object": "whatsapp_business_account", "entry": [{"id": waba, "changes": changes}]})


def post(client: Client, body: bytes, signature: str | None) -> Any:
    headers = {"X-Hub-Signature-256": signature} if signature else {}
    return client.post(URL, body, content_type="application/json", headers=headers)


def own_app(tenant: Tenant, secret: str) -> str:
    """Give a tenant a token with an app of its own, and a number on it; returns the number."""
    token = make_token(tenant, config={"waba_id": f"waba-{tenant.slug}"})
    token.secret_config = {"app_secret": secret, "verify_token": f"verify-{tenant.slug}"}
    token.save()
    return make_sender(tenant, token=token).address


def test_a_signed_webhook_is_stored_and_the_events_queue_applies_it(
    acme: Tenant, client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    make_contacts(acme, 1)
    broadcast = make_broadcast(acme)
    launch_broadcast(broadcast_id=broadcast.pk)
    Message.objects.update(state="accepted", wamid="wamid.1")
    value = {
        "metadata": {"phone_number_id": broadcast.sender.address},
        "statuses": [{"id": "wamid.1", "status": "read", "timestamp": "1790000000"}],
    }
    entry = [{"id": "waba-acme", "changes": [{"field": "messages", "value": value}]}]
    body = orjson.dumps({"object": "whatsapp_business_account", "entry": entry})

    with django_capture_on_commit_callbacks(execute=True):
        answer = post(client, body, sign(body, settings.META_APP_SECRET))

    assert (answer.status_code, bytes(Receipt.objects.get().body)) == (200, body)
    assert OrmQ.objects.filter(key="events").exists()
    assert run_queue("events", seconds=20, until_empty=True).done == 1
    assert Message.objects.get().state == "read"


@pytest.mark.parametrize("signature", [None, "", "sha256=", "sha256=" + "0" * 64, "sha1=abc", "ünsigned"])
def test_a_forged_webhook_is_refused_and_nothing_is_stored(
    acme: Tenant, client: Client, signature: str | None
) -> None:
    assert post(client, about("1", "2"), signature).status_code == 403
    assert not Receipt.objects.exists()


def test_a_webhook_that_is_too_large_is_refused(acme: Tenant, client: Client) -> None:
    body = b"x" * (3 * 1024 * 1024 + 1)
    assert post(client, body, sign(body, settings.META_APP_SECRET)).status_code == 413
    assert not Receipt.objects.exists()


def test_what_a_tenants_own_app_signs_is_stored_for_that_tenant(
    acme: Tenant, globex: Tenant, client: Client
) -> None:
    own_app(acme, "secret of acme")
    own_app(globex, "secret of globex")
    body = about("waba-acme", "1")
    for secret in ("secret of acme", "secret of globex", settings.META_APP_SECRET):
        assert post(client, body, sign(body, secret)).status_code == 200
    assert post(client, body, sign(body, "guess")).status_code == 403
    stored = list(Receipt.objects.order_by("id").values_list("tenant_id", "size"))
    assert stored == [(tenant_id, len(body)) for tenant_id in (acme.pk, globex.pk, None)]


def test_an_app_that_two_tenants_share_speaks_for_both(acme: Tenant, globex: Tenant, client: Client) -> None:
    own_app(acme, "one secret")
    own_app(globex, "one secret")
    body = about("waba-acme", "1")
    assert post(client, body, sign(body, "one secret")).status_code == 200
    assert set(Receipt.objects.values_list("tenant_id", flat=True)) == {acme.pk, globex.pk}


def test_a_secret_that_no_key_opens_keeps_nobody_else_out(
    acme: Tenant, globex: Tenant, client: Client
) -> None:
    own_app(acme, "secret of acme")
    own_app(globex, "secret of globex")
    ProviderToken.objects.filter(tenant=acme).update(sealed_config="spoiled")
    body = about("waba-globex", "1")
    assert post(client, body, sign(body, "secret of globex")).status_code == 200
    assert post(client, body, sign(body, "secret of acme")).status_code == 403


@pytest.mark.parametrize("path", ["lime/", "nobody/", "lime/secret/", "", "whatsapp"])
def test_only_vendors_that_post_have_an_address(db: None, client: Client, path: str) -> None:
    assert client.post(f"/webhooks/{path}", b"{}", content_type="application/json").status_code == (
        403 if path == "whatsapp" else 404
    )


def test_there_is_nothing_below_an_address_without_a_secret_in_it(db: None, client: Client) -> None:
    body = about("1")
    headers = {"X-Hub-Signature-256": sign(body, settings.META_APP_SECRET)}
    answer = client.post(f"{URL}more/", body, content_type="application/json", headers=headers)
    assert answer.status_code == 403


def test_other_methods_are_none(db: None, client: Client) -> None:
    answer = client.put(URL, b"{}", content_type="application/json")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, POST")


def test_meta_is_greeted_with_any_agreed_token(acme: Tenant, client: Client) -> None:
    own_app(acme, "x")
    for token, status in (
        (settings.META_VERIFY_TOKEN, 200),
        ("verify-acme", 200),
        ("another", 403),
        ("", 403),
    ):
        asked = {"hub.mode": "subscribe", "hub.challenge": "11<b>", "hub.verify_token": token}
        answer = client.get(URL, asked)
        assert answer.status_code == status
        kind = "text/plain" if status == 200 else "application/problem+json"
        assert answer.headers["Content-Type"].startswith(kind)
        assert (answer.content == b"11<b>") is (status == 200)
