"""Whose rows are seen: said to the ORM and to PostgreSQL, and unsaid again however a block ends."""

from __future__ import annotations

import pytest
from django.db import IntegrityError, connection, transaction

from campaigns.models import Campaign
from tenants.models import Tenant
from tenants.scope import ALL_ROWS_ROLE, NoTenantScope, all_tenants, current_scope, tenant_scope
from tests.factories import CampaignFactory, TenantFactory, two_tenants


def in_force() -> tuple[str, str]:
    """What PostgreSQL has been told: (role, tenant)."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('role'), coalesce(current_setting('app.tenant_id', true), '')")
        role, tenant = cursor.fetchone()
        return role, tenant


def orm() -> set[str]:
    return set(Campaign.objects.values_list("name", flat=True))


def sql() -> set[str]:
    """What PostgreSQL shows, whatever the ORM would filter."""
    return set(Campaign._base_manager.values_list("name", flat=True))


def in_transaction() -> bool:
    return connection.in_atomic_block


@pytest.fixture
def rows(acme: Tenant, bolt: Tenant) -> None:
    with all_tenants():
        CampaignFactory(tenant=acme, name="of acme")
        CampaignFactory(tenant=bolt, name="of bolt")


def test_without_a_scope_the_orm_refuses_and_postgresql_shows_nothing(rows: None) -> None:
    with pytest.raises(NoTenantScope):
        Campaign.objects.count()
    assert sql() == set()


def test_a_tenants_scope_shows_his_rows(rows: None, acme: Tenant) -> None:
    with tenant_scope(acme.pk):
        assert orm() == sql() == {"of acme"}


def test_all_tenants_shows_everybodys(rows: None) -> None:
    with all_tenants():
        assert orm() == sql() == {"of acme", "of bolt"}


def test_scopes_nest_and_come_back(rows: None, acme: Tenant, bolt: Tenant) -> None:
    outside = in_force()
    with all_tenants():
        with tenant_scope(acme.pk):
            with tenant_scope(bolt.pk):
                assert orm() == sql() == {"of bolt"}
                with all_tenants():
                    assert len(sql()) == 2
                assert sql() == {"of bolt"}
            assert (orm(), sql(), current_scope()) == ({"of acme"}, {"of acme"}, acme.pk)
        assert len(orm()) == len(sql()) == 2
    assert in_force() == outside


def test_an_exception_brings_the_scope_back(rows: None, acme: Tenant, bolt: Tenant) -> None:
    with tenant_scope(acme.pk):
        for inner in (tenant_scope(bolt.pk), all_tenants()):
            with pytest.raises(ZeroDivisionError), inner:
                raise ZeroDivisionError
            assert (orm(), sql(), current_scope()) == ({"of acme"}, {"of acme"}, acme.pk)


def test_a_database_error_brings_the_scope_back(rows: None, acme: Tenant, bolt: Tenant) -> None:
    with tenant_scope(acme.pk):
        with pytest.raises(IntegrityError), tenant_scope(bolt.pk):
            Campaign.objects.create(tenant=bolt, name="of bolt")
        assert sql() == {"of acme"}


def test_a_rollback_asked_for_undoes_the_block_and_brings_the_scope_back(
    rows: None, acme: Tenant, bolt: Tenant
) -> None:
    with tenant_scope(acme.pk):
        with tenant_scope(bolt.pk):
            Campaign.objects.create(tenant=bolt, name="second of bolt")
            transaction.set_rollback(True)
        assert (sql(), current_scope()) == ({"of acme"}, acme.pk)
    with all_tenants():
        assert sql() == {"of acme", "of bolt"}


@pytest.mark.django_db(transaction=True)
def test_outside_a_transaction_too_everything_comes_back() -> None:
    acme, bolt = two_tenants()
    assert in_force() == ("none", "")
    with all_tenants():
        assert not in_transaction()
        assert in_force() == (ALL_ROWS_ROLE, "")
        CampaignFactory(tenant=acme, name="of acme")
        with tenant_scope(bolt.pk):
            assert in_force() == ("none", str(bolt.pk))
            assert sql() == set()
        assert in_force() == (ALL_ROWS_ROLE, "")
        assert sql() == {"of acme"}
    assert in_force() == ("none", "")
    with pytest.raises(ZeroDivisionError), all_tenants():
        raise ZeroDivisionError
    assert in_force() == ("none", "")
    with tenant_scope(acme.pk):
        assert sql() == {"of acme"}
    assert in_force() == ("none", "")
    for scope in (tenant_scope(acme.pk), all_tenants(atomic=True)):
        with scope:
            assert in_transaction()
            Campaign.objects.create(tenant=acme, name="undone")
            transaction.set_rollback(True)
        assert not in_transaction()
        assert in_force() == ("none", "")
    with all_tenants():
        assert sql() == {"of acme"}


def test_a_new_tenant_sees_nothing(rows: None) -> None:
    with tenant_scope(TenantFactory.create().pk):
        assert orm() == sql() == set()
