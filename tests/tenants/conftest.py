import pytest

from tenants.models import Tenant
from tests.factories import two_tenants
from tests.tenants.walls import run


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
def stranger(db: None) -> str:
    """A role that owns nothing and may read and write every table."""
    run("CREATE ROLE turnout_stranger NOLOGIN NOSUPERUSER NOBYPASSRLS")
    run("GRANT USAGE ON SCHEMA public TO turnout_stranger")
    run("GRANT ALL ON ALL TABLES IN SCHEMA public TO turnout_stranger")
    run("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO turnout_stranger")
    run("GRANT turnout_stranger TO current_user WITH INHERIT FALSE, SET TRUE")
    return "turnout_stranger"
