"""Contacts, campaigns, segments and cohorts over HTTP, as a tenant's own systems see them."""

from __future__ import annotations

from typing import Any

import pytest
from rest_framework.test import APIClient

from campaigns.models import Contact, SocialAccount
from tenants.models import Tenant
from tenants.scope import tenant_scope
from tests.api.conftest import client_for

CONTACTS, CAMPAIGNS = "/api/v1/contacts/", "/api/v1/campaigns/"
SEGMENTS, COHORTS = "/api/v1/segments/", "/api/v1/cohorts/"
IMPORT = f"{CONTACTS}import/"


@pytest.fixture
def api(acme: Tenant) -> APIClient:
    return client_for(acme)


@pytest.fixture
def other_api(globex: Tenant) -> APIClient:
    return client_for(globex)


def fields(response: Any) -> set[str | None]:
    assert response.status_code == 400, response.content
    return {error["field"] for error in response.json()["errors"]}


def external_ids(tenant: Tenant) -> set[str]:
    with tenant_scope(tenant.pk):
        return set(Contact.objects.values_list("external_id", flat=True))


# -- contacts


def test_a_contact_is_stored_normalised_and_read_back(api: APIClient) -> None:
    made = api.post(
        CONTACTS,
        {
            "external_id": "c1",
            "phone": "+44 7400 121185",
            "email": "Ann@Example.org",
            "attributes": {"age": 30},
            "accounts": [
                {"platform": "instagram", "username": "@Ann"},
                {"platform": "facebook", "user_id": "1"},
            ],
        },
    )
    assert made.status_code == 201, made.content
    shown = made.json()
    assert (shown["phone"], shown["email"]) == ("+447400121185", "ann@example.org")
    assert shown["timezone"] == "Europe/London"
    assert shown["accounts"] == [
        {"platform": "instagram", "user_id": "", "username": "ann"},
        {"platform": "facebook", "user_id": "1", "username": ""},
    ]
    assert api.get(f"{CONTACTS}{shown['id']}/").json() == shown
    assert [row["id"] for row in api.get(CONTACTS, {"phone": "+447400121185"}).json()["results"]] == [
        shown["id"]
    ]


def test_a_change_keeps_what_it_does_not_name(api: APIClient, acme: Tenant) -> None:
    accounts = [{"platform": "tiktok", "username": "ann"}, {"platform": "youtube", "username": "ann"}]
    body = {"external_id": "c1", "phone": "+4915123456789", "attributes": {"a": 1}, "accounts": accounts}
    address = f"{CONTACTS}{api.post(CONTACTS, body).json()['id']}/"
    with tenant_scope(acme.pk):
        before = SocialAccount.objects.get(platform="tiktok").pk
    shown = api.patch(address, {"name": "Ann"}).json()
    assert (shown["attributes"], len(shown["accounts"])) == ({"a": 1}, 2)
    shown = api.patch(
        address, {"accounts": [{"platform": "tiktok", "username": "ann", "user_id": "9"}]}
    ).json()
    assert shown["accounts"] == [{"platform": "tiktok", "user_id": "9", "username": "ann"}]
    with tenant_scope(acme.pk):
        assert SocialAccount.objects.get().pk == before  # whoever points at the account still does
    assert api.patch(address, {"phone": "+14155550123"}).json()["timezone"] == "America/Los_Angeles"
    shown = api.patch(address, {"phone": "+4915123456789", "timezone": "Asia/Tokyo"}).json()
    assert shown["timezone"] == "Asia/Tokyo"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"phone": "0151 23456789"}, "phone"),
        ({"phone": "+49 1"}, "phone"),
        ({"email": "nobody"}, "email"),
        ({"timezone": "Mars/Olympus"}, "timezone"),
        ({"attributes": [1]}, "attributes"),
        ({"attributes": {"": 1}}, "attributes"),
        ({"attributes": {"a": {"b": {"c": {"d": {"e": {"f": {}}}}}}}}, "attributes"),
        ({"accounts": [{"platform": "orkut", "username": "a"}]}, "accounts.0.platform"),
        ({"accounts": [{"platform": "tiktok"}]}, "accounts.0"),
        ({"accounts": [{"platform": "tiktok", "username": "a", "id": 1}]}, "accounts.0.id"),
        ({"accounts": [{"platform": "tiktok", "username": "taken"}]}, "accounts"),
        ({"accounts": [{"platform": "tiktok", "username": "a"}] * 2}, "accounts"),
        ({"external_id": "taken"}, "external_id"),
        ({"external_id": ""}, "external_id"),
        ({"tenant": 1}, "tenant"),
        ({"phnoe": "+1"}, "phnoe"),
    ],
)
def test_a_wrong_contact_is_refused_by_field(
    api: APIClient, acme: Tenant, change: dict[str, Any], field: str
) -> None:
    taken = {"external_id": "taken", "accounts": [{"platform": "tiktok", "username": "taken"}]}
    assert api.post(CONTACTS, taken).status_code == 201
    assert fields(api.post(CONTACTS, {"external_id": "c1"} | change)) == {field}
    assert external_ids(acme) == {"taken"}


# -- import


def test_an_import_reports_every_row(api: APIClient, acme: Tenant, globex: Tenant) -> None:
    rows = [{"external_id": "c1"}, {"external_id": "c2", "phone": "1"}, 5, {"external_id": 3}]
    report = api.post(IMPORT, rows)
    assert report.status_code == 200
    assert {**report.json(), "rejected": [row["row"] for row in report.json()["rejected"]]} == {
        "created": 2,
        "updated": 0,
        "unchanged": 0,
        "rejected": [2, 3],
    }
    assert (external_ids(acme), external_ids(globex)) == ({"c1", "3"}, set())


def test_a_csv_file_is_imported_with_a_region(api: APIClient, acme: Tenant) -> None:
    body = "external_id;phone\nc1;0151 23456789\nc2;x\n"
    report = api.generic("POST", f"{IMPORT}?region=DE", body, content_type="text/csv")
    assert report.json()["created"] == 1
    assert report.json()["rejected"] == [{"row": 3, "errors": ["phone: is not a phone number"]}]
    assert fields(api.generic("POST", f"{IMPORT}?region=XX", body, content_type="text/csv")) == {"region"}
    assert fields(api.generic("POST", f"{IMPORT}?regoin=DE", body, content_type="text/csv")) == {"regoin"}
    assert fields(api.generic("POST", IMPORT, "name\nAnn\n", content_type="text/csv")) == {None}
    assert fields(api.post(IMPORT, {"external_id": "c9"})) == {None}
    assert api.generic("POST", IMPORT, "<a/>", content_type="text/xml").status_code == 415
    assert external_ids(acme) == {"c1"}


def test_more_than_ten_thousand_rows_are_too_many(api: APIClient, acme: Tenant) -> None:
    rows = [{"external_id": str(number)} for number in range(10_001)]
    text = "external_id\n" + "\n".join(row["external_id"] for row in rows)
    for refused in (api.post(IMPORT, rows), api.generic("POST", IMPORT, text, content_type="text/csv")):
        assert refused.status_code == 413
        assert refused["Content-Type"] == "application/problem+json"
    assert external_ids(acme) == set()
    assert api.post(IMPORT, rows[:-1]).json()["created"] == 10_000


def test_an_import_that_is_sent_twice_is_answered_twice_and_done_once(api: APIClient, acme: Tenant) -> None:
    key = {"Idempotency-Key": "import-1"}
    first = api.post(IMPORT, [{"external_id": "c1"}], headers=key)
    assert api.post(IMPORT, [{"external_id": "c1"}], headers=key).json() == first.json()


# -- campaigns


def test_a_campaign_goes_through_its_states(api: APIClient) -> None:
    made = api.post(CAMPAIGNS, {"name": "Spring", "budget": 125_000, "currency": "EUR"})
    assert made.json()["state"] == "draft"
    address = f"{CAMPAIGNS}{made.json()['id']}/"
    for verb, status, state in [
        ("pause", 409, "draft"),
        ("complete", 409, "draft"),
        ("resume", 200, "active"),
        ("resume", 409, "active"),
        ("pause", 200, "paused"),
        ("resume", 200, "active"),
        ("complete", 200, "completed"),
        ("resume", 409, "completed"),
    ]:
        assert api.post(f"{address}{verb}/").status_code == status, verb
        assert api.get(address).json()["state"] == state
    assert fields(api.patch(address, {"state": "active"})) == {"state"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Taken"}, "name"),
        ({"state": "completed"}, "state"),
        ({"budget": -1}, "budget"),
        ({"budget": 2**63}, "budget"),
        ({"currency": "euro"}, "currency"),
        ({"starts_at": "2026-02-01T00:00Z", "ends_at": "2026-01-01T00:00Z"}, None),
    ],
)
def test_a_wrong_campaign_is_refused(api: APIClient, change: dict[str, Any], field: str | None) -> None:
    api.post(CAMPAIGNS, {"name": "Taken", "state": "active"})
    assert fields(api.post(CAMPAIGNS, {"name": "Spring"} | change)) == {field}


# -- segments and cohorts


def test_segments_choose_and_cohorts_keep(api: APIClient, other_api: APIClient) -> None:
    api.post(IMPORT, [{"external_id": str(age), "attributes": {"age": age}} for age in (17, 18, 40)])
    other_api.post(IMPORT, [{"external_id": "x", "attributes": {"age": 99}}])
    rules = {"field": "attributes.age", "op": "gte", "value": 18}
    segment = api.post(SEGMENTS, {"name": "adults", "rules": rules}).json()
    assert api.get(f"{SEGMENTS}{segment['id']}/count/").json() == {"count": 2}
    cohort = api.post(COHORTS, {"name": "adults today", "segment": segment["id"]})
    assert cohort.status_code == 201, cohort.content
    count = f"{COHORTS}{cohort.json()['id']}/count/"
    api.post(IMPORT, [{"external_id": "50", "attributes": {"age": 50}}])
    assert api.get(f"{SEGMENTS}{segment['id']}/count/").json() == {"count": 3}
    assert api.get(count).json() == {"count": 2}
    assert other_api.get(count).status_code == 404
    assert fields(other_api.post(COHORTS, {"name": "theirs", "segment": segment["id"]})) == {"segment"}


def test_cohorts_are_also_made_of_contacts_or_everybody(api: APIClient) -> None:
    api.post(IMPORT, [{"external_id": "a"}, {"external_id": "b"}])
    cases: list[tuple[dict[str, Any], int]] = [({"contacts": ["a", "a"]}, 1), ({}, 2), ({"contacts": []}, 0)]
    for body, size in cases:
        made = api.post(COHORTS, {"name": f"cohort of {size}"} | body).json()
        assert api.get(f"{COHORTS}{made['id']}/count/").json() == {"count": size}
    assert fields(api.post(COHORTS, {"name": "gone", "contacts": ["a", "z"]})) == {"contacts"}
    assert fields(api.patch(f"{COHORTS}{made['id']}/", {"contacts": ["a"]})) == {"contacts"}
    assert len(api.get(COHORTS).json()["results"]) == 3


@pytest.mark.parametrize("rules", [{"all": []}, {"field": "city", "op": "eq", "value": 1}, {"and": 1}])
def test_wrong_rules_are_refused_by_place(api: APIClient, rules: dict[str, Any]) -> None:
    refused = api.post(SEGMENTS, {"name": "wrong", "rules": rules})
    assert fields(refused) == {"rules"}
    assert refused.json()["errors"][0]["message"].startswith("rules")
