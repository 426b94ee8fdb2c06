"""What PostgreSQL holds by itself, seen from plain SQL with a role that owns nothing."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.db import connection, transaction
from django.db.utils import IntegrityError, ProgrammingError

from engine.models import Allowance, Lane
from tenants.models import Tenant
from tenants.scope import ALL_ROWS_ROLE, TenantOrPlatformOwned, TenantOwned, all_tenants, tenant_scope
from tests import factories
from tests.tenants.walls import as_role, run, select

# Worked by the engine for all tenants at once and read by them through scoped queries (architecture).
QUEUE_TABLES = {"engine_lane", "engine_allowance", "messaging_message"}

OWNED_BASES = (TenantOwned, TenantOrPlatformOwned)
OWNED = {
    model._meta.db_table: model
    for model in apps.get_models()
    if issubclass(model, OWNED_BASES) and model._meta.db_table not in QUEUE_TABLES
}
FACTORIES: dict[Any, Any] = {made._meta.model: made for made in factories.OfTenant.__subclasses__()}


def test_nobody_of_ours_is_above_the_policies(db: None) -> None:
    assert select(
        "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname IN (current_user, %s)", ALL_ROWS_ROLE
    ) == [False, False]


@pytest.mark.parametrize("table", sorted(OWNED))
def test_every_tenant_owned_table_has_its_policy_and_is_forced(db: None, table: str) -> None:
    assert select(
        "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE oid = %s::regclass", table
    ) == [True]
    assert sorted(select("SELECT policyname FROM pg_policies WHERE tablename = %s", table)) == [
        "every_tenant",
        "own_tenant",
    ]


@pytest.mark.parametrize("table", sorted(OWNED))
def test_a_stranger_sees_nothing_without_a_tenant_and_then_only_its_rows(
    stranger: str, acme: Tenant, bolt: Tenant, table: str
) -> None:
    with all_tenants():
        ours, theirs = FACTORIES[OWNED[table]](tenant=acme), FACTORIES[OWNED[table]](tenant=bolt)
    for role in (stranger, "none"):  # the owner, being forced, sees no more
        with as_role(role):
            assert select(f"SELECT id FROM {table}") == []
        with as_role(role, acme):
            assert select(f"SELECT id FROM {table}") == [ours.pk]
            assert run(f"UPDATE {table} SET tenant_id = tenant_id WHERE id = %s", theirs.pk) == 0
            assert run(f"DELETE FROM {table} WHERE id = %s", theirs.pk) == 0


@pytest.mark.parametrize("table", sorted(OWNED))
def test_a_row_cannot_be_given_to_another_tenant(
    stranger: str, acme: Tenant, bolt: Tenant, table: str
) -> None:
    with all_tenants():
        ours = FACTORIES[OWNED[table]](tenant=acme)
    with pytest.raises(ProgrammingError, match="row-level security"), as_role(stranger, acme):
        run(f"UPDATE {table} SET tenant_id = %s WHERE id = %s", bolt.pk, ours.pk)


@pytest.mark.parametrize(
    "table", sorted(t for t, model in OWNED.items() if issubclass(model, TenantOrPlatformOwned))
)
def test_the_platforms_rows_do_not_exist_for_a_tenant(stranger: str, acme: Tenant, table: str) -> None:
    with all_tenants():
        theirs = FACTORIES[OWNED[table]](tenant=None)
        ours = FACTORIES[OWNED[table]](tenant=acme)
        assert {row.pk for row in OWNED[table].objects.all()} == {theirs.pk, ours.pk}
    with tenant_scope(acme.pk):
        assert [row.pk for row in OWNED[table].objects.all()] == [ours.pk]
    for role in (stranger, "none"):
        with as_role(role):
            assert select(f"SELECT id FROM {table}") == []
        with as_role(role, acme):
            assert select(f"SELECT id FROM {table} WHERE tenant_id IS NULL") == []
            assert run(f"UPDATE {table} SET tenant_id = %s WHERE id = %s", acme.pk, theirs.pk) == 0
            assert run(f"DELETE FROM {table} WHERE id = %s", theirs.pk) == 0
        with pytest.raises(ProgrammingError, match="row-level security"), as_role(role, acme):
            run(f"UPDATE {table} SET tenant_id = NULL WHERE id = %s", ours.pk)


@pytest.mark.parametrize("model", [Lane, Allowance])
def test_the_platforms_lanes_and_allowances_are_not_in_a_tenants_scope(acme: Tenant, model: Any) -> None:
    with all_tenants():
        FACTORIES[model](tenant=None)
        ours = FACTORIES[model](tenant=acme)
    with tenant_scope(acme.pk):
        assert list(model.objects.all()) == [ours]


def test_a_row_cannot_be_inserted_for_another_tenant(stranger: str, acme: Tenant, bolt: Tenant) -> None:
    insert = (
        "INSERT INTO campaigns_campaign (tenant_id, name, state, budget, currency, created_at)"
        " VALUES (%s, 'x', 'draft', 0, 'EUR', now())"
    )
    for tenant, asked in [(None, acme), (acme, bolt)]:
        with pytest.raises(ProgrammingError, match="row-level security"), as_role(stranger, tenant):
            run(insert, asked.pk)
    with as_role(stranger, acme):
        assert run(insert, acme.pk) == 1


def references_across() -> list[Any]:
    """Every (model, field) between two tenant-owned models, the queues' included."""
    return [
        pytest.param(model, field, id=f"{model._meta.db_table}.{field.column}")
        for model in FACTORIES
        for field in model._meta.fields
        if field.is_relation and field.name != "tenant" and issubclass(field.related_model, OWNED_BASES)
    ]


def point_at(row: Any, field: Any, parent: Any) -> None:
    """Write the reference and check it as the commit would; some walls refuse at once."""
    run(f"UPDATE {row._meta.db_table} SET {field.column} = %s WHERE id = %s", parent.pk, row.pk)
    connection.check_constraints()


@pytest.mark.parametrize(("model", "field"), references_across())
def test_a_row_cannot_point_into_another_tenant(acme: Tenant, bolt: Tenant, model: Any, field: Any) -> None:
    """Even for whoever sees every row: the composite foreign keys hold, policies or not."""
    with all_tenants():
        ours = FACTORIES[model](tenant=acme)
        theirs = FACTORIES[field.related_model](tenant=bolt)
        connection.check_constraints()
        with pytest.raises(IntegrityError) as caught:
            point_at(ours, field, theirs)
        transaction.set_rollback(True)
    assert isinstance(caught.value.__cause__, psycopg.errors.ForeignKeyViolation)


def test_every_tenant_owned_table_has_a_factory_here() -> None:
    assert set(OWNED.values()) <= set(FACTORIES)
    assert len(references_across()) >= 15
