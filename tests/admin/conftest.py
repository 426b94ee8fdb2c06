"""People of two tenants, and our own staff, each signed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tenants.models import Tenant
from tenants.scope import all_tenants
from tests import factories

SignIn = Callable[..., Client]


@pytest.fixture
def two(db: None) -> tuple[Tenant, Tenant]:
    return factories.two_tenants()


@pytest.fixture
def acme(two: tuple[Tenant, Tenant]) -> Tenant:
    return two[0]


@pytest.fixture
def bolt(two: tuple[Tenant, Tenant]) -> Tenant:
    return two[1]


@pytest.fixture
def everything(db: None) -> Iterator[None]:
    """Let the test itself see every tenant's rows."""
    with all_tenants():
        yield


@pytest.fixture
def sign_in(db: None) -> SignIn:
    """Sign somebody in: `sign_in(tenant, "viewer")`, or `sign_in()` as platform staff."""

    def sign_in(tenant: Tenant | None = None, role: str = "operator") -> Client:
        client = Client(SERVER_NAME="localhost")
        with all_tenants():
            if tenant is None:
                person = User.objects.create_superuser(f"staff{User.objects.count()}")
            else:
                person = factories.MembershipFactory.create(tenant=tenant, role=role).user
        client.force_login(person)
        return client

    return sign_in
