"""Two tenants, seen by the engine's eyes: `all_tenants`, unless a test narrows it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tenants.models import Tenant
from tenants.scope import all_tenants


@pytest.fixture
def _scope(db: None) -> Iterator[None]:
    with all_tenants():
        yield


@pytest.fixture
def acme(_scope: None) -> Tenant:
    return Tenant.objects.create(name="Acme", slug="acme")


@pytest.fixture
def globex(_scope: None) -> Tenant:
    return Tenant.objects.create(name="Globex", slug="globex")
