"""Every error is a problem document, whoever finds it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pytest_django import Settings
from rest_framework.test import APIClient

from engine.api import UsageViewSet
from tenants.errors import ActionRefused
from tenants.models import ProviderToken, Tenant
from tenants.scope import all_tenants
from tests.factories import ProviderTokenFactory, SenderFactory

TOKENS = "/api/v1/provider-tokens/"
GOOD = {"provider": "whatsapp", "label": "main", "secret": "EAAx"}


def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    assert document["type"] == "about:blank"
    assert document["title"]
    assert document["detail"]
    assert document["request_id"] == response.headers["X-Request-ID"]
    assert all(error.keys() == {"field", "message"} for error in document["errors"])
    return document


@pytest.mark.parametrize(
    ("method", "path", "body", "media_type", "status"),
    [
        ("GET", "/api/v1/nowhere/", "", "application/json", 404),
        ("POST", "/api/v1/nowhere/", "{}", "application/json", 404),
        ("GET", "/api/nowhere", "", "application/json", 404),
        ("GET", TOKENS + "999/", "", "application/json", 404),
        ("GET", TOKENS + "abc/", "", "application/json", 404),
        ("GET", TOKENS + "9" * 40 + "/", "", "application/json", 404),
        ("GET", TOKENS + "?cursor=nonsense", "", "application/json", 404),
        ("GET", TOKENS + "?cursor=cD1hYmM=", "", "application/json", 404),
        ("GET", TOKENS + "?provider=%00", "", "application/json", 400),
        ("GET", TOKENS + "?colour=red", "", "application/json", 400),
        ("GET", "/api/v1/usage/?token=abc", "", "application/json", 400),
        ("PUT", TOKENS, "{}", "application/json", 405),
        ("POST", "/api/v1/usage/", "{}", "application/json", 405),
        ("POST", TOKENS, "{", "application/json", 400),
        ("POST", TOKENS, "[]", "application/json", 400),
        ("POST", TOKENS, "null", "application/json", 400),
        ("POST", TOKENS, '"text"', "application/json", 400),
        ("POST", TOKENS, '{"label": "a\\u0000b"}', "application/json", 400),
        ("POST", TOKENS, '{"config": {"a": ["\\u0000"]}}', "application/json", 400),
        ("POST", TOKENS, '{"label": "\\ud800"}', "application/json", 400),
        ("POST", TOKENS, '{"hourly_allowance": NaN}', "application/json", 400),
        ("POST", TOKENS, '{"hourly_allowance": 1e400}', "application/json", 400),
        ("POST", TOKENS, b"\xff\xfe", "application/json", 400),
        ("POST", TOKENS, "[" * 100_000, "application/json", 400),
        ("POST", TOKENS, "a=b", "application/x-www-form-urlencoded", 415),
        ("POST", TOKENS, "<x/>", "text/xml", 415),
    ],
)
def test_errors_are_problem_documents(
    api: APIClient, method: str, path: str, body: Any, media_type: str, status: int
) -> None:
    problem(api.generic(method, path, body, content_type=media_type), status)


def test_an_address_without_its_slash_is_told_how_it_is_written(api: APIClient) -> None:
    detail = problem(api.post("/api/v1/provider-tokens", GOOD), 404)["detail"]
    assert "/api/v1/provider-tokens/" in detail


def test_every_field_at_fault_is_listed(api: APIClient) -> None:
    document = problem(api.post(TOKENS, {"provider": "fax", "colour": "red", "hourly_allowance": -1}), 400)
    told = {error["field"]: error["message"] for error in document["errors"]}
    assert told.keys() == {"provider", "label", "secret", "hourly_allowance", "colour"}
    assert told["colour"].startswith("Unknown field.")
    assert "and 4 more" in document["detail"]


def test_read_only_fields_are_refused_unless_they_are_sent_back_unchanged(api: APIClient) -> None:
    assert problem(api.post(TOKENS, {**GOOD, "state": "active"}), 400)["errors"][0]["field"] == "state"
    token = api.post(TOKENS, GOOD).json()
    changed = api.patch(f"{TOKENS}{token['id']}/", {**token, "label": "other"})
    assert changed.status_code == 200, changed.content
    assert changed.json()["label"] == "other"
    refused = problem(api.patch(f"{TOKENS}{token['id']}/", {"state": "revoked"}), 400)
    assert refused["errors"] == [{"field": "state", "message": "This field is read-only."}]


def test_a_taken_name_names_the_fields_and_leaves_nothing(api: APIClient) -> None:
    assert api.post(TOKENS, GOOD).status_code == 201
    document = problem(api.post(TOKENS, GOOD), 400)
    assert "provider and label already exists" in document["detail"]
    with all_tenants():
        assert ProviderToken.objects.count() == 1


def test_another_tenant_may_use_the_same_name(api: APIClient, bolts_api: APIClient) -> None:
    assert api.post(TOKENS, GOOD).status_code == 201
    assert bolts_api.post(TOKENS, GOOD).status_code == 201


def test_what_is_still_used_is_not_deleted(acme: Tenant, api: APIClient) -> None:
    with all_tenants():
        sender: Any = SenderFactory(tenant=acme)
    document = problem(api.delete(f"{TOKENS}{sender.provider_token_id}/"), 409)
    assert "sender" in document["detail"]
    with all_tenants():
        assert ProviderToken.objects.count() == 1


def test_a_body_that_is_too_large_is_refused(api: APIClient, settings: Settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1024
    document = problem(
        api.generic(
            "POST", TOKENS, json.dumps({**GOOD, "label": "x" * 2000}), content_type="application/json"
        ),
        413,
    )
    assert "larger" in document["detail"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ActionRefused("Not while it rains."), 409),
        (ActionRefused("Too big.", field="budget"), 400),
        (ValueError("secret words of ours"), 500),
    ],
)
def test_what_a_view_raises_is_told_and_undone(
    acme: Tenant, api: APIClient, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def write_and_raise(*args: Any, **kwargs: Any) -> None:
        ProviderTokenFactory(tenant=acme)
        raise error

    monkeypatch.setattr(UsageViewSet, "list", write_and_raise)
    api.raise_request_exception = False
    document = problem(api.get("/api/v1/usage/"), status)
    assert "secret words" not in json.dumps(document)
    if isinstance(error, ActionRefused):
        assert error.reason in document["detail"]
        assert [e["field"] for e in document["errors"]] == ([error.field] if error.field else [])
    with all_tenants():
        assert ProviderToken.objects.count() == 0
