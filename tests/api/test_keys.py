"""What a key opens, and when it stops opening anything."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils.timezone import now
from pytest_django import Settings
from rest_framework.test import APIClient

from tenants.actions import create_api_key, reinstate_tenant, revoke_api_key, suspend_tenant
from tenants.api.permissions import allows
from tenants.errors import ActionRefused
from tenants.models import ApiKey, ApiKeyWindow, Tenant
from tenants.scope import all_tenants
from tests.api.conftest import client_for
from tests.factories import two_tenants

USAGE = "/api/v1/usage/"


def only_key() -> Any:
    with all_tenants():
        return ApiKey.objects.get()


def change_key(**fields: Any) -> None:
    with all_tenants():
        assert ApiKey.objects.update(**fields) == 1


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Basic dXNlcjpwYXNz",
        "Bearer tk_00000000_x",
        "Bearer \xff\x00",
    ],
)
def test_what_is_no_key_is_refused(db: None, header: str) -> None:
    response = APIClient(headers={"Authorization": header}).get(USAGE)
    assert response.status_code == 401
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="Turnout"'


def test_a_revoked_key_stops_at_once(api: APIClient) -> None:
    assert api.get(USAGE).status_code == 200
    with all_tenants():
        assert revoke_api_key(key_id=only_key().pk) == 1
        assert revoke_api_key(key_id=only_key().pk) == 0
    response = api.get(USAGE)
    assert response.status_code == 401
    assert "revoked" in response.json()["detail"]


def test_an_expired_key_is_refused(api: APIClient) -> None:
    change_key(expires_at=now() + timedelta(minutes=5))
    assert api.get(USAGE).status_code == 200
    change_key(expires_at=now() - timedelta(seconds=1))
    response = api.get(USAGE)
    assert response.status_code == 401
    assert "expired" in response.json()["detail"]


def test_a_suspended_tenants_key_is_refused_until_it_is_reinstated(acme: Tenant, api: APIClient) -> None:
    assert suspend_tenant(tenant_id=acme.pk) == 1
    response = api.get(USAGE)
    assert response.status_code == 403
    assert response.json()["detail"] == "Acme is suspended."
    assert reinstate_tenant(tenant_id=acme.pk) == 1
    assert api.get(USAGE).status_code == 200


def test_the_key_itself_is_kept_nowhere(acme: Tenant) -> None:
    with all_tenants():
        key = create_api_key(tenant=acme)
        row = ApiKey.objects.values().get()
    assert key.startswith(f"tk_{row['prefix']}_")
    assert key not in str(row)
    assert key.rpartition(f"{row['prefix']}_")[2] not in str(row)


def test_the_last_use_is_written_once_a_minute(api: APIClient) -> None:
    assert only_key().last_used_at is None
    api.get(USAGE)
    first = only_key().last_used_at
    assert first is not None
    api.get(USAGE)
    assert only_key().last_used_at == first
    change_key(last_used_at=first - timedelta(seconds=61))
    api.get(USAGE)
    assert only_key().last_used_at >= first


@pytest.mark.parametrize(
    ("scopes", "verb", "allowed"),
    [
        (["*"], "write", True),
        (["contacts:read"], "read", True),
        (["contacts:read"], "write", False),
        (["contacts:write"], "read", False),
        (["contacts:*"], "write", True),
        (["*:read"], "read", True),
        (["*:read"], "write", False),
        (["campaigns:write"], "write", False),
        ([], "read", False),
    ],
)
def test_scopes_allow_what_they_say(scopes: list[str], verb: str, allowed: bool) -> None:
    assert allows(scopes, "contacts", verb) is allowed


@pytest.mark.parametrize("scope", ["", "contacts", "contacts:delete", "Contacts:read", "a:read b:read", "**"])
def test_a_key_is_not_made_with_a_scope_that_is_none(acme: Tenant, scope: str) -> None:
    with all_tenants(), pytest.raises(ActionRefused):
        create_api_key(tenant=acme, scopes=[scope])


def test_a_key_is_throttled_by_itself_and_told_when_to_go_on(acme: Tenant, settings: Settings) -> None:
    settings.API_REQUESTS_PER_MINUTE = 5
    busy, calm = client_for(acme), client_for(acme)
    answers = [busy.get(USAGE) for _ in range(12)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[:5] == [200] * 5
    assert statuses[-1] == 429
    assert statuses.count(200) <= 6  # one more where a minute of the clock ends meanwhile
    refused = answers[-1]
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["code"] == "throttled"
    assert 1 <= int(refused.headers["Retry-After"]) <= 120
    assert calm.get(USAGE).status_code == 200


def test_a_throttled_key_goes_on_when_its_minute_is_over(acme: Tenant, settings: Settings) -> None:
    settings.API_REQUESTS_PER_MINUTE = 2
    client = client_for(acme)
    while client.get(USAGE).status_code != 429:
        pass
    with all_tenants():
        window = ApiKeyWindow.objects.get()
        window.started_at -= timedelta(minutes=2)
        window.save()
    assert client.get(USAGE).status_code == 200
    with all_tenants():
        assert ApiKeyWindow.objects.get().used == 1


def test_refused_requests_are_not_counted(acme: Tenant, settings: Settings) -> None:
    settings.API_REQUESTS_PER_MINUTE = 2
    client = client_for(acme)
    for _ in range(10):
        client.get(USAGE)
    with all_tenants():
        assert ApiKeyWindow.objects.get().used <= 2


@pytest.mark.django_db(transaction=True)
def test_the_throttle_counts_exactly_however_many_processes_answer(settings: Settings) -> None:
    """Four connections at once, as four processes would have: none of them counts for itself."""
    settings.API_REQUESTS_PER_MINUTE = 20
    client = client_for(two_tenants()[0])
    header = client._credentials["HTTP_AUTHORIZATION"]

    def ask(_: int) -> list[int]:
        try:
            each = APIClient(headers={"Authorization": header})
            return [each.get(USAGE).status_code for _ in range(15)]
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        statuses = [status for answers in pool.map(ask, range(4)) for status in answers]
    assert len(statuses) == 60
    assert set(statuses) == {200, 429}
    # where a minute of the clock ends meanwhile, the share of it that has passed is free again
    assert 20 <= statuses.count(200) <= 22
