"""Plain SQL, as a role that owns nothing and as a tenant: what the tests of the walls look through."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connection, transaction

from tenants.models import Tenant


def select(sql: str, *values: Any) -> list[Any]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return [row[0] if len(row) == 1 else row for row in cursor.fetchall()]


def run(sql: str, *values: Any) -> int:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.rowcount


@contextmanager
def as_role(role: str, tenant: Tenant | None = None) -> Iterator[None]:
    with transaction.atomic():
        run(f"SET LOCAL ROLE {role}")
        if tenant is not None:
            run("SELECT set_config('app.tenant_id', %s, true)", str(tenant.pk))
        yield
        run("RESET ROLE")
        run("SELECT set_config('app.tenant_id', '', true)")
