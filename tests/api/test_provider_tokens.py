"""Provider tokens: what is secret goes in and never comes out."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection
from django.test import Client
from rest_framework.test import APIClient

from engine.models import Allowance
from tenants.models import ProviderToken, Tenant
from tenants.scope import all_tenants
from tests.factories import LaneFactory, MembershipFactory, ProviderTokenFactory, VendorAccountFactory

TOKENS = "/api/v1/provider-tokens/"
SECRETS = ["EAAsecret", "app-secret-word", "verify-word"]
GOOD: dict[str, Any] = {
    "provider": "whatsapp",
    "label": "main",
    "secret": SECRETS[0],
    "config": {"waba_id": "77", "version": "v25.0", "app_secret": SECRETS[1], "verify_token": SECRETS[2]},
    "hourly_allowance": 200,
}


WRONG_CONFIGS: list[Any] = [
    [],
    "waba_id",
    {"app_secret": 5},
    {"app_secret": "x" * 501},
    {"waba_id": "abc"},
    {"waba_id": 77},
    {"waba_id": ["77"]},
    {"waba_id": None},
    {"waba_id": "1" * 33},
    {"version": "25"},
    {"version": "v25.0/../me"},
    {"colour": "red"},
    {"webhook_secret": "of another vendor"},
]


def stored() -> Any:
    with all_tenants():
        return ProviderToken.objects.get()


def test_secrets_go_in_and_never_come_out(api: APIClient) -> None:
    made = api.post(TOKENS, GOOD)
    assert made.status_code == 201, made.content
    one = f"{TOKENS}{made.json()['id']}/"
    answers = [made, api.get(TOKENS), api.get(one), api.patch(one, {"label": "other"})]
    answers.append(api.put(one, {**GOOD, "label": "third"}))
    for answer in answers:
        assert answer.status_code in (200, 201), answer.content
        assert not any(secret in answer.content.decode() for secret in SECRETS)
    assert "secret" not in made.json()
    assert made.json()["config"] == {
        "waba_id": "77",
        "version": "v25.0",
        "app_secret": None,
        "verify_token": None,
    }
    with all_tenants(), connection.cursor() as cursor:
        cursor.execute("SELECT t::text FROM tenants_providertoken t")
        row = cursor.fetchone()[0]
    assert not any(secret in row for secret in SECRETS)
    token = stored()
    assert token.secret == SECRETS[0]
    assert (token.setting("app_secret"), token.setting("waba_id")) == (SECRETS[1], "77")


@pytest.mark.parametrize(
    ("config", "app_secret", "shown"),
    [
        ({"waba_id": "8", "app_secret": None}, "app-secret-word", {"waba_id": "8", "app_secret": None}),
        ({"waba_id": "8", "app_secret": "new"}, "new", {"waba_id": "8", "app_secret": None}),
        ({"waba_id": "8", "app_secret": ""}, None, {"waba_id": "8"}),
        ({"waba_id": "8"}, None, {"waba_id": "8"}),
        ({}, None, {}),
    ],
)
def test_a_secret_setting_is_kept_when_sent_back_as_null(
    api: APIClient, config: dict[str, Any], app_secret: str | None, shown: dict[str, Any]
) -> None:
    one = f"{TOKENS}{api.post(TOKENS, GOOD).json()['id']}/"
    changed = api.patch(one, {"config": config})
    assert changed.status_code == 200, changed.content
    assert changed.json()["config"] == shown
    assert stored().setting("app_secret") == app_secret
    assert stored().secret == SECRETS[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("config", config) for config in WRONG_CONFIGS),
        ("config", None),
        ("secret", ""),
        ("secret", None),
        ("provider", "fax"),
        ("hourly_allowance", -1),
        ("hourly_allowance", 2**31),
        ("label", "x" * 101),
        ("expires_at", "soon"),
    ],
)
def test_what_is_wrong_is_refused_by_name(api: APIClient, field: str, value: Any) -> None:
    response = api.post(TOKENS, {**GOOD, field: value})
    assert response.status_code == 400, response.content
    assert [error["field"] for error in response.json()["errors"]] == [field]


def test_a_token_stays_with_its_provider(api: APIClient) -> None:
    one = f"{TOKENS}{api.post(TOKENS, GOOD).json()['id']}/"
    assert api.patch(one, {"provider": "lime"}).status_code == 400


def test_a_new_secret_gets_a_new_chance(acme: Tenant, api: APIClient) -> None:
    with all_tenants():
        token: Any = ProviderTokenFactory(tenant=acme, state="revoked", last_error="190")
    one = f"{TOKENS}{token.pk}/"
    assert api.patch(one, {"label": "other"}).json()["state"] == "revoked"
    assert api.patch(one, {"secret": "EAAnew"}).json()["state"] == "active"
    assert stored().secret == "EAAnew"


def test_an_allowance_is_the_same_whoever_edits_it(acme: Tenant, api: APIClient) -> None:
    """API, admin and plain SQL all reach the row that the engine reserves calls from (A11)."""

    def allowed() -> list[int]:
        with all_tenants():
            rows = Allowance.objects.filter(token=token, unit="calls", window="hour")
            return list(rows.values_list("limit", flat=True))

    with all_tenants():
        token: Any = ProviderTokenFactory(tenant=acme)
        owner = MembershipFactory(tenant=acme, role="owner").user
    one = f"{TOKENS}{token.pk}/"
    assert allowed() == []
    for limit, found in [(200, [200]), (100, [100]), (None, [])]:
        assert api.patch(one, {"hourly_allowance": limit}).status_code == 200
        assert allowed() == found
    browser = Client(SERVER_NAME="localhost")
    browser.force_login(owner)
    form = {"label": token.label, "config": "{}", "secret": "", "hourly_allowance": 150}
    assert browser.post(f"/admin/tenants/providertoken/{token.pk}/change/", form).status_code == 302
    assert allowed() == [150]
    with all_tenants(), connection.cursor() as cursor:
        cursor.execute("UPDATE tenants_providertoken SET hourly_allowance = 50 WHERE id = %s", [token.pk])
    assert allowed() == [50]


def test_a_token_shows_the_accounts_that_are_proved(acme: Tenant, bolt: Tenant, api: APIClient) -> None:
    with all_tenants():
        ProviderTokenFactory(tenant=acme)
        ours: Any = VendorAccountFactory(tenant=acme)
        VendorAccountFactory(tenant=acme, provider="meta")
        for owner in (bolt, None):
            VendorAccountFactory(tenant=owner)
    (token,) = api.get(TOKENS).json()["results"]
    assert [account["account_id"] for account in token["accounts"]] == [ours.account_id]
    assert token["accounts"][0].keys() == {"account_id", "proved_at"}


@pytest.mark.parametrize("path", ["provider-tokens", "usage"])
def test_a_platform_token_does_not_exist_for_a_tenant(api: APIClient, path: str) -> None:
    with all_tenants():
        token: Any = ProviderTokenFactory(tenant=None, label="platform-secret-label")
        row: Any = token if path == "provider-tokens" else LaneFactory(tenant=None, token=token)
    one = f"/api/v1/{path}/{row.pk}/"
    assert api.get(one).status_code == 404
    assert token.label not in api.get(f"/api/v1/{path}/").content.decode()
    if path == "provider-tokens":
        assert [api.patch(one, {"label": "x"}).status_code, api.delete(one).status_code] == [404, 404]
        assert api.post(f"{one}check/").status_code == 404
        sender = {"provider_token": token.pk, "kind": "whatsapp", "address": "1"}
        answer = api.post("/api/v1/senders/", sender)
        assert (answer.status_code, f"{token.pk} not found." in answer.content.decode()) == (400, True)


def test_tokens_are_filtered_by_provider_and_state(acme: Tenant, api: APIClient) -> None:
    with all_tenants():
        for provider, state in [("whatsapp", "active"), ("lime", "active"), ("lime", "expired")]:
            ProviderTokenFactory(tenant=acme, provider=provider, state=state)
    for query, found in [("provider=lime", 2), ("state=active", 2), ("provider=lime&state=expired", 1)]:
        assert len(api.get(f"{TOKENS}?{query}").json()["results"]) == found
    assert api.get(f"{TOKENS}?state=dead").status_code == 400


@pytest.mark.parametrize(
    ("path", "made_by"), [("usage", LaneFactory), ("provider-tokens", ProviderTokenFactory)]
)
def test_a_list_costs_the_same_however_long_it_is(
    acme: Tenant, api: APIClient, path: str, made_by: Any, django_assert_max_num_queries: Any
) -> None:
    def queries() -> int:
        with django_assert_max_num_queries(60) as asked:
            assert api.get(f"/api/v1/{path}/").status_code == 200
        return len(asked)

    with all_tenants():
        made_by(tenant=acme)
    queries()
    few = queries()
    with all_tenants():
        made_by.create_batch(20, tenant=acme)
    assert queries() == few


def test_lists_are_read_page_by_page_without_gaps(acme: Tenant, api: APIClient) -> None:
    with all_tenants():
        made = [token.pk for token in ProviderTokenFactory.create_batch(7, tenant=acme)]
    page, seen, pages = api.get(f"{TOKENS}?page_size=3").json(), [], 1
    while True:
        assert page.keys() == {"next", "previous", "results"}
        seen += [row["id"] for row in page["results"]]
        if page["next"] is None:
            break
        page, pages = api.get(page["next"]).json(), pages + 1
    assert (seen, pages) == (made[::-1], 3)
    assert [row["id"] for row in api.get(page["previous"]).json()["results"]] == made[1:4][::-1]
