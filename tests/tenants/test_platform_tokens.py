"""Platform-owned tokens: whom they serve, and what may point at their lanes, from the ORM and plain SQL."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.db import connection, transaction
from django.db.migrations.state import ProjectState
from django.db.utils import IntegrityError

from tenants.constraints import same_tenant_or_platform
from tenants.models import ProviderToken, Tenant
from tenants.scope import all_tenants, tenant_scope
from tests.factories import AllowanceFactory, LaneFactory, ProviderTokenFactory, TenantFactory
from tests.tenants.walls import as_role, run, select


@pytest.fixture
def premium(db: None) -> Tenant:
    with all_tenants():
        return TenantFactory.create(name="Prime", slug="prime", tier=Tenant.Tier.PREMIUM)


def make_token(owner: Tenant | None, *served: Tenant) -> ProviderToken:
    with all_tenants():
        token: ProviderToken = ProviderTokenFactory.create(tenant=owner)
        token.usable_by.set(served)
    return token


@pytest.mark.parametrize(
    ("owner", "named", "serves"),
    [
        ("acme", (), {"acme"}),
        ("prime", (), {"prime"}),
        (None, (), {"acme", "bolt"}),  # every standard tenant
        (None, ("acme",), {"acme"}),
        (None, ("prime",), {"prime"}),
        (None, ("bolt", "prime"), {"bolt", "prime"}),
    ],
)
def test_whom_a_token_serves(
    acme: Tenant, bolt: Tenant, premium: Tenant, owner: str | None, named: tuple[str, ...], serves: set[str]
) -> None:
    by_slug = {tenant.slug: tenant for tenant in (acme, bolt, premium)}
    token = make_token(by_slug[owner] if owner else None, *(by_slug[slug] for slug in named))
    with all_tenants():
        found = {slug for slug, tenant in by_slug.items() if token in ProviderToken.objects.usable_by(tenant)}
    told = {
        slug
        for slug, tenant in by_slug.items()
        if select("SELECT tenants_token_serves(%s, %s)", token.pk, tenant.pk) == [True]
    }
    assert found == told == serves


def test_in_a_tenants_own_scope_only_its_own_tokens_are_usable(acme: Tenant) -> None:
    own, _ = make_token(acme), make_token(None)
    with tenant_scope(acme.pk):
        assert list(ProviderToken.objects.usable_by(acme)) == [own]


def test_a_tenants_own_token_serves_nobody_else(acme: Tenant, bolt: Tenant) -> None:
    with pytest.raises(IntegrityError, match="serves no other"):
        make_token(acme, bolt)


@pytest.mark.parametrize("role", ["stranger", "none"])
def test_a_tenant_neither_sees_nor_says_whom_a_token_serves(stranger: str, acme: Tenant, role: str) -> None:
    token = make_token(None, acme)
    name = stranger if role == "stranger" else role
    with as_role(name, acme):
        assert select("SELECT * FROM tenants_providertoken_usable_by") == []
        assert run("DELETE FROM tenants_providertoken_usable_by") == 0
    with pytest.raises(Exception, match="row-level security"), as_role(name, acme):
        run(
            "INSERT INTO tenants_providertoken_usable_by (providertoken_id, tenant_id) VALUES (%s, %s)",
            token.pk,
            acme.pk,
        )


@pytest.mark.parametrize("made_by", [ProviderTokenFactory, LaneFactory])
def test_what_is_somebodys_stays_his(acme: Tenant, bolt: Tenant, made_by: Any) -> None:
    with all_tenants():
        for before, after in [(None, acme), (acme, None), (acme, bolt)]:
            row = made_by.create(tenant=before)
            sql = f"UPDATE {row._meta.db_table} SET tenant_id = %s WHERE id = %s"
            with pytest.raises(IntegrityError, match="stays with its owner"), transaction.atomic():
                run(sql, after and after.pk, row.pk)


@pytest.mark.parametrize("made_by", [LaneFactory, AllowanceFactory])
def test_what_is_the_platforms_stands_on_the_platforms_token(acme: Tenant, made_by: Any) -> None:
    with all_tenants():
        made_by.create(tenant=None, token=ProviderTokenFactory.create(tenant=acme))
        with pytest.raises(IntegrityError, match="not the platform's own"):
            connection.check_constraints()
        transaction.set_rollback(True)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("made_by", [LaneFactory, AllowanceFactory])
def test_a_platform_lane_is_checked_at_the_commit_by_a_role_that_sees_its_token(made_by: Any) -> None:
    with transaction.atomic():
        with all_tenants():
            row = made_by.create(tenant=None)
        assert select("SELECT current_setting('role')") == ["none"], "the writer's role is gone"
    with all_tenants():
        assert type(row).objects.filter(pk=row.pk).exists()


def test_a_token_does_not_go_away_under_a_platform_lane(db: None) -> None:
    with all_tenants():
        lane = LaneFactory.create(tenant=None)
        run("DELETE FROM tenants_providertoken WHERE id = %s", lane.token_id)
        with pytest.raises(IntegrityError, match="engine_lane_token_exists"):
            connection.check_constraints()
        transaction.set_rollback(True)


# -- rows on platform-owned lanes


@pytest.fixture
def readings(stranger: str) -> str:
    """A queue's table whose rows may stand on the platform's lanes."""
    run("CREATE TABLE readings (id bigserial PRIMARY KEY, tenant_id bigint NOT NULL, lane_id bigint, n int)")
    migrate("forwards")
    run(f"GRANT ALL ON readings TO {stranger}, turnout_all")
    run(f"GRANT ALL ON SEQUENCE readings_id_seq TO {stranger}, turnout_all")
    return "readings"


def migrate(way: str) -> None:
    state = ProjectState.from_apps(apps)
    operations = same_tenant_or_platform("readings", "lane_id", "engine_lane")
    with connection.schema_editor() as editor:
        for operation in operations if way == "forwards" else reversed(operations):
            getattr(operation, f"database_{way}")("tests", editor, state, state)


INSERT = "INSERT INTO readings (tenant_id, lane_id) VALUES (%s, %s)"


@pytest.mark.parametrize("role", ["stranger", "turnout_all"])
@pytest.mark.parametrize(
    ("owner", "named", "may"),
    [
        ("acme", (), True),
        ("bolt", (), False),
        (None, (), True),
        (None, ("acme",), True),
        (None, ("bolt",), False),
    ],
)
def test_a_row_stands_on_a_lane_of_its_tenant_or_on_one_that_serves_it(
    readings: str,
    stranger: str,
    acme: Tenant,
    bolt: Tenant,
    owner: str | None,
    named: tuple[str, ...],
    may: bool,
    role: str,
) -> None:
    by_slug = {"acme": acme, "bolt": bolt}
    token = make_token(by_slug[owner] if owner else None, *(by_slug[slug] for slug in named))
    with all_tenants():
        lane = LaneFactory.create(tenant=token.tenant, token=token)
        own = LaneFactory.create(tenant=acme)
    name = stranger if role == "stranger" else role
    one_wrong_among_many = """
        INSERT INTO readings (tenant_id, lane_id)
        SELECT %s, CASE i WHEN 50 THEN %s::bigint ELSE %s END FROM generate_series(1, 100) i
    """
    statements: list[tuple[str, tuple[Any, ...]]] = [
        (INSERT, (acme.pk, lane.pk)),
        (one_wrong_among_many, (acme.pk, lane.pk, own.pk)),
        ("UPDATE readings SET lane_id = %s WHERE tenant_id = %s", (lane.pk, acme.pk)),
    ]
    run(INSERT, acme.pk, own.pk)
    run(INSERT, acme.pk, None)
    for sql, values in statements:
        if may:
            with as_role(name, acme):
                assert run(sql, *values)
        else:
            with pytest.raises(IntegrityError, match="may not use engine_lane"), as_role(name, acme):
                run(sql, *values)


def test_a_row_is_not_given_to_a_tenant_that_its_lane_does_not_serve(
    readings: str, acme: Tenant, bolt: Tenant
) -> None:
    token = make_token(None, acme)
    with all_tenants():
        lane = LaneFactory.create(tenant=None, token=token)
        run(INSERT, acme.pk, lane.pk)
        with pytest.raises(IntegrityError, match="may not use"), transaction.atomic():
            run("UPDATE readings SET tenant_id = %s", bolt.pk)
        # what a token served stays when it serves no more; nothing new comes
        token.usable_by.set([bolt])
        assert run("UPDATE readings SET n = 1") == 1
        with pytest.raises(IntegrityError, match="may not use"), transaction.atomic():
            run(INSERT, acme.pk, lane.pk)


def test_a_lane_that_is_not_there_is_refused(readings: str, acme: Tenant) -> None:
    with all_tenants():
        run(INSERT, acme.pk, 2**40)
        with pytest.raises(IntegrityError, match="readings_lane_id_fk"):
            connection.check_constraints()
        transaction.set_rollback(True)


def test_the_wall_is_taken_down_again(readings: str, acme: Tenant, bolt: Tenant) -> None:
    migrate("backwards")
    with all_tenants():
        assert run(INSERT, acme.pk, LaneFactory.create(tenant=bolt).pk) == 1
    assert select("SELECT proname FROM pg_proc WHERE proname LIKE 'readings%%'") == []
