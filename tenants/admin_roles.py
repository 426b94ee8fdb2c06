"""Who may do what in the admin: one ladder of roles, asked of the request."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from django.http import HttpRequest

from tenants.middleware import STAFF
from tenants.scope import ALL, NoTenantScope, current_scope


class Role(IntEnum):
    """Each may do what those below it may. PLATFORM is our own staff, who see every tenant."""

    NOBODY = 0
    VIEWER = 1
    OPERATOR = 2
    OWNER = 3
    PLATFORM = 4


def role_of(request: HttpRequest) -> Role:
    """Say what this person may do among the rows that the middleware lets this request see."""
    user = request.user
    if not (user.is_authenticated and user.is_active and user.is_staff):
        return Role.NOBODY
    role: str | None = getattr(request, "tenant_role", None)  # the middleware has worked it out
    return Role.PLATFORM if role == STAFF else Role[(role or "nobody").upper()]


def sees_all_tenants() -> bool:
    """Is this request of platform staff who have not narrowed it to one tenant?"""
    try:
        return current_scope() == ALL
    except NoTenantScope:
        return False


class RolePermissions:
    """Django's `has_*_permission`, answered by role instead of by permission rows.

    `read_role` opens the pages, `write_role` lets add, change and delete; what no person may do at all
    (a ledger's rows are never changed by hand) is said by overriding a method to return False.
    """

    read_role = Role.VIEWER
    write_role = Role.OPERATOR

    def has_module_permission(self, request: HttpRequest) -> bool:
        return role_of(request) >= self.read_role

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return role_of(request) >= self.read_role and _in_scope(obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return role_of(request) >= self.write_role

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return role_of(request) >= self.write_role and _in_scope(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return role_of(request) >= self.write_role and _in_scope(obj)

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """May this person press the buttons that make things happen?"""
        return role_of(request) >= max(self.write_role, Role.OPERATOR) and _in_scope(obj)


def _in_scope(obj: Any) -> bool:
    """Belt and braces: rows come from scoped querysets already. The platform's are in no tenant's scope."""
    if not hasattr(obj, "tenant_id") or obj._state.adding:
        return True
    return current_scope() in (ALL, obj.tenant_id)
