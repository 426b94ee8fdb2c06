"""Two tenants, so that every test of contacts can say what the other one must not notice."""

import pytest

from tenants.models import Tenant


@pytest.fixture
def acme(db: None) -> Tenant:
    return Tenant.objects.create(name="Acme", slug="acme")


@pytest.fixture
def globex(db: None) -> Tenant:
    return Tenant.objects.create(name="Globex", slug="globex")
