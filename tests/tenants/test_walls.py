"""What PostgreSQL holds by itself, seen from plain SQL with a role that owns nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.db import connection, transaction
from django.db.utils import IntegrityError, ProgrammingError

from tenants.models import Tenant
from tenants.scope import ALL_ROWS_ROLE, TenantOrPlatformOwned, TenantOwned, all_tenants
from tests import factories

# Worked by the engine for all tenants at once and read by them through scoped queries (architecture).
QUEUE_TABLES = {"engine_lane", "engine_allowance", "messaging_message"}

OWNED_BASES = (TenantOwned, TenantOrPlatformOwned)
OWNED = {
    model._meta.db_table: model
    for model in apps.get_models()
    if issubclass(model, OWNED_BASES) and model._meta.db_table not in QUEUE_TABLES
}
FACTORIES: dict[Any, Any] = {made._meta.model: made for made in factories.OfTenant.__subclasses__()}


def select(sql: str, *values: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return [row[0] if len(row) == 1 else row for row in cursor.fetchall()]


def run(sql: str, *values: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.rowcount


@pytest.fixture
def stranger(db: None) -> str:
    """A role that owns nothing and may read and write every table."""
    run("CREATE ROLE turnout_stranger NOLOGIN NOSUPERUSER NOBYPASSRLS")
    run("GRANT USAGE ON SCHEMA public TO turnout_stranger")
    run("GRANT ALL ON ALL TABLES IN SCHEMA public TO turnout_stranger")
    run("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO turnout_stranger")
    run("GRANT turnout_stranger TO current_user WITH INHERIT FALSE, SET TRUE")
    return "turnout_stranger"


@contextmanager
def as_role(role: str, tenant: Tenant | None = None) -> Iterator[None]:
    with transaction.atomic():
        run(f"SET LOCAL ROLE {role}")
        if tenant is not None:
            run("SELECT set_config('app.tenant_id', %s, true)", str(tenant.pk))
        yield
        run("RESET ROLE")
        run("SELECT set_config('app.tenant_id', '', true)")


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


@pytest.mark.parametrize(("model", "field"), references_across())
def test_a_row_cannot_point_into_another_tenant(acme: Tenant, bolt: Tenant, model: Any, field: Any) -> None:
    """Even for whoever sees every row: the composite foreign keys hold, policies or not."""
    with all_tenants():
        ours = FACTORIES[model](tenant=acme)
        theirs = FACTORIES[field.related_model](tenant=bolt)
        connection.check_constraints()
        run(f"UPDATE {model._meta.db_table} SET {field.column} = %s WHERE id = %s", theirs.pk, ours.pk)
        with pytest.raises(IntegrityError) as caught:
            connection.check_constraints()
        transaction.set_rollback(True)
    assert isinstance(caught.value.__cause__, psycopg.errors.ForeignKeyViolation)


def test_every_tenant_owned_table_has_a_factory_here() -> None:
    assert set(OWNED.values()) <= set(FACTORIES)
    assert len(references_across()) >= 15
