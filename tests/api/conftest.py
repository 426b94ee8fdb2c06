"""Two tenants, and a client with a key for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from rest_framework.test import APIClient

from tenants.actions import create_api_key
from tenants.models import Tenant
from tenants.scope import all_tenants
from tests.factories import two_tenants

MakeClient = Callable[..., APIClient]


def client_for(tenant: Tenant, scopes: Iterable[str] = ("*",)) -> APIClient:
    with all_tenants():
        key = create_api_key(tenant=tenant, scopes=scopes)
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {key}")
    return client


@pytest.fixture
def tenants(db: None) -> tuple[Tenant, Tenant]:
    return two_tenants()


@pytest.fixture
def acme(tenants: tuple[Tenant, Tenant]) -> Tenant:
    return tenants[0]


@pytest.fixture
def bolt(tenants: tuple[Tenant, Tenant]) -> Tenant:
    return tenants[1]


@pytest.fixture
def api(acme: Tenant) -> APIClient:
    return client_for(acme)


@pytest.fixture
def bolts_api(bolt: Tenant) -> APIClient:
    return client_for(bolt)
