"""What a key may do: `resource:read` and `resource:write`; `*` stands for any part, or for all."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

from rest_framework.exceptions import NotAuthenticated, PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from tenants.models import ApiKey

if TYPE_CHECKING:  # rest_framework.views itself imports this module
    from rest_framework.views import APIView

SCOPE = re.compile(r"\*|(\*|[a-z]+(-[a-z]+)*):(read|write|\*)")


def allows(scopes: Collection[str], resource: str, verb: str) -> bool:
    """Say whether scopes include `resource:verb`. Writing does not include reading."""
    return not {"*", f"{resource}:{verb}", f"{resource}:*", f"*:{verb}", "*:*"}.isdisjoint(scopes)


class HasScope(BasePermission):
    """The key's scopes cover this resource (the basename of its viewset) and this method."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        if not isinstance(request.auth, ApiKey):
            raise NotAuthenticated("Send your API key: `Authorization: Bearer tk_…`.")
        resource = str(getattr(view, "basename", ""))
        verb = "read" if request.method in SAFE_METHODS else "write"
        if not allows(request.auth.scopes, resource, verb):
            raise PermissionDenied(f"This key lacks the scope {resource}:{verb}.", code="scope_missing")
        return True
