"""Which tenant's rows may be seen, said twice: to the ORM and to PostgreSQL.

`tenant_scope(id)` limits both to one tenant, `all_tenants()` lifts both, and without either every
tenant-owned query raises `NoTenantScope` while PostgreSQL, by row-level security, shows no rows. So a
forgotten scope fails loudly and shows nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal

from django.db import InterfaceError, OperationalError, connection, models, transaction

ALL: Final = "all"
ALL_ROWS_ROLE = "turnout_all"
"""The role whose policy passes every row; made by the first migration of `tenants`."""

Scope = int | Literal["all"] | None
_scope: ContextVar[Scope] = ContextVar("tenant_scope", default=None)


class NoTenantScope(RuntimeError):
    """A tenant-owned table was asked for its rows before anybody said whose."""


def current_scope() -> int | Literal["all"]:
    """Say whose rows may be seen now; raises `NoTenantScope` when nobody has said."""
    scope = _scope.get()
    if scope is None:
        raise NoTenantScope("wrap this in tenants.scope.tenant_scope(tenant_id) or all_tenants()")
    return scope


@contextmanager
def tenant_scope(tenant_id: int) -> Iterator[None]:
    """See one tenant's rows only. Opens a transaction, since PostgreSQL's half lasts as long as one."""
    token = _scope.set(tenant_id)
    try:
        with _local({"role": "none", "app.tenant_id": str(tenant_id)}):
            yield
    finally:
        _scope.reset(token)


@contextmanager
def all_tenants(*, atomic: bool = False) -> Iterator[None]:
    """See every tenant's rows: the engine, the commands and platform staff.

    Inside a transaction the role lasts as long as the block; outside one it is set on the session,
    which is why workers need a direct connection and not a transaction-pooled one. With `atomic` the
    block is a transaction of its own, as `tenant_scope` is.
    """
    token = _scope.set(ALL)
    try:
        if atomic or connection.in_atomic_block:
            with _local({"role": ALL_ROWS_ROLE}):
                yield
        else:
            with _session_role(ALL_ROWS_ROLE):
                yield
    finally:
        _scope.reset(token)


@contextmanager
def _local(settings: dict[str, str]) -> Iterator[None]:
    """Set settings for the rest of this block, and put the old values back.

    A block that is rolled back, by an exception or by `set_rollback`, is not cleaned up after: the
    rollback takes its settings with it. Neither is an outermost one: they end with its transaction.
    """
    outermost = not connection.in_atomic_block
    with transaction.atomic():
        before = _set(settings)
        yield
        if not outermost and not connection.needs_rollback:
            _set(before)


def _set(settings: dict[str, str]) -> dict[str, str]:
    """Set settings of the transaction in one round trip; returns what they were."""
    reads = ", ".join("coalesce(current_setting(%s, true), '')" for _ in settings)
    writes = ", ".join("set_config(%s, %s, true)" for _ in settings)
    pairs = [part for pair in settings.items() for part in pair]
    with connection.cursor() as cursor:
        # a subquery that may not be flattened: the old values are read before the new ones are set
        cursor.execute(
            f"SELECT old.*, {writes} FROM (SELECT {reads} OFFSET 0) old",
            [*pairs, *settings],
        )
        return dict(zip(settings, cursor.fetchone(), strict=False))


@contextmanager
def _session_role(role: str) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('role')")
        before = cursor.fetchone()[0]
        cursor.execute("SELECT set_config('role', %s, false)", [role])
    try:
        yield
    finally:
        if connection.connection is not None and not connection.connection.closed:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT set_config('role', %s, false)", [before])
            except (OperationalError, InterfaceError):
                connection.close()  # lost meanwhile, and its role with it


class TenantQuerySet(models.QuerySet[Any]):
    """The base of every QuerySet over tenant-owned rows."""


class TenantManager(models.Manager[Any]):
    """Hand out only the rows of the scope in force."""

    def get_queryset(self) -> models.QuerySet[Any]:
        scope = current_scope()
        rows = super().get_queryset()
        return rows if scope == ALL else rows.filter(tenant_id=scope)


class TenantOwned(models.Model):
    """A row that belongs to one tenant and is never seen by another."""

    tenant = models.ForeignKey("tenants.Tenant", on_delete=models.CASCADE, related_name="+")

    objects = TenantManager()

    class Meta:
        abstract = True


class TenantOrPlatformOwned(models.Model):
    """A row that belongs to one tenant, or (`tenant` empty) to the platform, and then no tenant sees it."""

    tenant = models.ForeignKey(
        "tenants.Tenant",
        null=True,
        blank=True,
        on_delete=models.CASCADE,
        related_name="+",
        help_text="Empty: the platform's own.",
    )

    objects = TenantManager()

    class Meta:
        abstract = True
