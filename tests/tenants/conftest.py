import pytest

from tenants.models import Tenant
from tests.factories import two_tenants


@pytest.fixture
def tenants(db: None) -> tuple[Tenant, Tenant]:
    return two_tenants()


@pytest.fixture
def acme(tenants: tuple[Tenant, Tenant]) -> Tenant:
    return tenants[0]


@pytest.fixture
def bolt(tenants: tuple[Tenant, Tenant]) -> Tenant:
    return tenants[1]
