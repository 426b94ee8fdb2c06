"""Who is asking: the bearer of an API key. The middleware has looked the key up by then."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, PermissionDenied
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from tenants.keys import Admission
from tenants.models import ApiKey, Tenant

if TYPE_CHECKING:  # rest_framework.views itself imports this module
    from rest_framework.views import APIView


@dataclass(slots=True, frozen=True)
class ApiClient:
    """A tenant's own system, as `request.user` of an API request. Its key is `request.auth`."""

    key: ApiKey
    is_authenticated = True
    is_anonymous = False
    is_active = True

    @property
    def pk(self) -> int:
        return self.key.pk

    def __str__(self) -> str:
        return f"key {self.key.prefix}"


class ApiKeyAuthentication(BaseAuthentication):
    def authenticate(self, request: Request) -> tuple[ApiClient, ApiKey] | None:
        admission: Admission = getattr(request._request, "admission", None) or Admission()
        if admission.refusal:
            raise AuthenticationFailed(admission.refusal)
        key = admission.key
        if key is None:
            return None
        if key.tenant.state != Tenant.State.ACTIVE:
            raise PermissionDenied(f"{key.tenant.name} is suspended.", code="tenant_suspended")
        return ApiClient(key), key

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="Turnout"'


class KeyThrottle(BaseThrottle):
    """So many requests a minute for each key. Counted by the middleware, outside the transaction."""

    def __init__(self) -> None:
        self._wait = 0

    def allow_request(self, request: Request, view: APIView) -> bool:
        admission: Admission | None = getattr(request._request, "admission", None)
        self._wait = admission.wait if admission else 0
        return not self._wait

    def wait(self) -> float | None:
        return self._wait or None
