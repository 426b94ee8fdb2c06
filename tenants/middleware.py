"""One request, one transaction, one scope.

`/api/v1/` acts for the tenant of its key, `/admin/` for the tenant of the signed-in person, and nothing
else has a tenant at all: health, webhooks, short links and static files set their own scope or need none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from contextvars import copy_context
from typing import Any, TypeVar

import structlog
from django.db import transaction
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import Resolver404, resolve

from tenants import keys
from tenants.models import Membership, Tenant
from tenants.scope import all_tenants, tenant_scope

API, ADMIN = "/api/v1/", "/admin/"
NEED_NO_TENANT = (
    "/admin/login/",
    "/admin/logout/",
    "/admin/password_change/",
    "/admin/jsi18n/",
    "/admin/tenant/",  # the switch itself, or nobody could leave a suspended tenant
)
SESSION_KEY = "tenant_id"
"""Where the session keeps which of several tenants was chosen (`tenants.switch`)."""

STAFF = "staff"
"""The role of platform staff, who belong to no tenant and see all of them."""

View = TypeVar("View", bound=Callable[..., Any])
Scope = Callable[[], AbstractContextManager[None]]  # each is a transaction too


def no_transaction(view: View) -> View:
    """Mark a view, or a method of a viewset, that makes a network call: it opens its own scopes.

    The middleware then only says who is acting (`request.tenant`); without a scope of the view's own
    every tenant-owned query raises.
    """
    view.no_transaction = True  # type: ignore[attr-defined]
    return view


class TenantMiddleware:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        # bound again below, and left bound so that the line about the request itself carries them
        structlog.contextvars.unbind_contextvars("tenant", "user")
        if request.path_info.startswith(API):
            return self._answer_key(request)
        if request.path_info.startswith(ADMIN) and not request.path_info.startswith(NEED_NO_TENANT):
            return self._answer_person(request)
        return self.get_response(request)

    # -- a tenant's own systems

    def _answer_key(self, request: HttpRequest) -> HttpResponseBase:
        """Act for the key's tenant. What the key may not do is told by the API, as a problem document."""
        scheme, _, presented = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and presented.strip():
            admission = keys.admit(presented.strip())
        else:
            admission = keys.Admission()
        request.admission = admission  # type: ignore[attr-defined]
        key = admission.key
        if key is None or key.tenant.state != Tenant.State.ACTIVE or admission.wait:
            return self.get_response(request)
        request.tenant = key.tenant  # type: ignore[attr-defined]
        structlog.contextvars.bind_contextvars(tenant=key.tenant_id, user=f"key:{key.prefix}")
        if _has_no_transaction(request):
            return self.get_response(request)
        return self._within(request, lambda: tenant_scope(key.tenant_id))

    # -- people

    def _answer_person(self, request: HttpRequest) -> HttpResponseBase:
        user = request.user
        if not user.is_authenticated:
            return self.get_response(request)
        structlog.contextvars.bind_contextvars(user=user.get_username())
        with all_tenants(atomic=True):
            members = list(
                Membership.objects.filter(user_id=user.pk).select_related("tenant").order_by("tenant__name")
            )
            is_staff = user.is_superuser or (not members and user.has_perm("tenants.see_all_tenants"))
            tenant, role = _chosen(request, None if is_staff else members)
        request.memberships = members  # type: ignore[attr-defined]
        if role is None:
            return _refuse(request, "Your account belongs to no tenant. Ask whoever runs Turnout to add you.")
        if tenant is not None and tenant.state != Tenant.State.ACTIVE and role != STAFF:
            return _refuse(request, f"{tenant.name} is suspended. Ask whoever runs Turnout why.", members)
        request.tenant, request.tenant_role = tenant, role  # type: ignore[attr-defined]
        scope: Scope = lambda: all_tenants(atomic=True)  # noqa: E731
        if tenant is not None:
            structlog.contextvars.bind_contextvars(tenant=tenant.pk)
            tenant_id = tenant.pk
            scope = lambda: tenant_scope(tenant_id)  # noqa: E731
        if _has_no_transaction(request):
            return self.get_response(request)
        return self._within(request, scope)

    def _within(self, request: HttpRequest, scope: Scope) -> HttpResponseBase:
        """Answer inside one transaction and one scope; a server error leaves nothing behind."""
        with scope():
            response = self.get_response(request)
            if response.status_code >= 500:
                transaction.set_rollback(True)
        if isinstance(response, StreamingHttpResponse):
            if response.is_async:
                raise TypeError(
                    "an asynchronous stream would leave its tenant: stream from a plain generator"
                )
            response.streaming_content = ScopedStream(scope, response.streaming_content)
        return response


class ScopedStream(Iterator[bytes]):
    """A response's body, made inside the tenant and a transaction of its own: it outlives its request.

    Runs in a context of its own, so that the scope is not seen by whoever reads it piece by piece.
    """

    def __init__(self, scope: Scope, pieces: Any) -> None:
        self._context = copy_context()
        self._pieces = self._make(scope, pieces)

    @staticmethod
    def _make(scope: Scope, pieces: Any) -> Iterator[bytes]:
        with ExitStack() as stack:
            if close := getattr(pieces, "close", None):
                stack.callback(close)
            stack.enter_context(scope())
            yield from pieces

    def __next__(self) -> bytes:
        return self._context.run(next, self._pieces)

    def close(self) -> None:
        self._context.run(self._pieces.close)  # type: ignore[attr-defined]


def _chosen(request: HttpRequest, members: list[Membership] | None) -> tuple[Tenant | None, str | None]:
    """Return the tenant to act for and the role there. `members` is None for platform staff."""
    wanted = request.session.get(SESSION_KEY)
    if members is None:
        return Tenant.objects.filter(pk=wanted).first() if wanted else None, STAFF
    if not members:
        return None, None
    member = next((m for m in members if m.tenant_id == wanted), members[0])
    return member.tenant, member.role


def _has_no_transaction(request: HttpRequest) -> bool:
    """Say whether the view, or the viewset's method that this request will call, is marked so."""
    if request.method in ("GET", "HEAD"):
        return False
    try:
        view: Any = resolve(request.path_info).func
    except Resolver404:
        return False
    name = getattr(view, "actions", {}).get((request.method or "").lower())
    return any(
        getattr(found, "no_transaction", False)
        for found in (view, getattr(getattr(view, "cls", None), name, None) if name else None)
    )


def _refuse(request: HttpRequest, reason: str, members: list[Membership] | None = None) -> HttpResponse:
    others = [m.tenant for m in members or [] if m.tenant.state == Tenant.State.ACTIVE]
    return render(request, "tenants/refused.html", {"reason": reason, "tenants": others}, status=403)
