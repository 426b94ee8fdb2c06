"""What drf-spectacular cannot see by itself: the keys, the problem documents, `Idempotency-Key`."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from tenants.api import idempotency

PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "An error, as RFC 9457 says.",
    "required": ["type", "title", "status", "detail", "code", "errors"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string", "description": "Stable: for programs."},
        "instance": {"type": "string", "format": "uri-reference"},
        "request_id": {"type": ["string", "null"]},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["field", "message"],
                "properties": {
                    "field": {
                        "type": ["string", "null"],
                        "description": "Null: the body as a whole. Inside others: `steps.1.template`.",
                    },
                    "message": {"type": "string"},
                },
            },
        },
    },
}
ANYWHERE = {
    "400": "Malformed, or a field is wrong; `errors` says which.",
    "401": "No API key, or one that is unknown, revoked or expired.",
    "403": "The key lacks the scope, or the tenant is suspended.",
    "429": "Too many requests for this key; `Retry-After` says when to go on.",
}
ON_ONE = {"404": "No such thing, or another tenant's."}
ON_WRITE = {
    "409": "Refused in the present state; `detail` says why.",
    "413": "The body is too large.",
    "415": "Not a media type that this reads.",
}
ON_POST = {"422": "The `Idempotency-Key` was used for another request."}


class TenantAutoSchema(AutoSchema):
    def get_override_parameters(self) -> list[Any]:
        parameters = list(super().get_override_parameters())
        verb = getattr(self.view, getattr(self.view, "action", None) or "", None)
        if self.method == "POST" and not getattr(verb, "no_transaction", False):
            parameters.append(
                OpenApiParameter(
                    idempotency.HEADER,
                    OpenApiTypes.STR,
                    OpenApiParameter.HEADER,
                    description="Sent again with the same body within a day: the first answer again, "
                    f"marked `{idempotency.REPLAYED}: true`.",
                )
            )
        return parameters

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        operation: dict[str, Any] | None = super().get_operation(*args, **kwargs)
        if operation is None:
            return None
        errors = dict(ANYWHERE)
        if "{" in self.path:
            errors |= ON_ONE
        if self.method in ("POST", "PUT", "PATCH", "DELETE"):
            errors |= ON_WRITE
        if self.method == "POST":
            errors |= ON_POST
        problem = self._problem()
        for status, description in errors.items():
            operation["responses"].setdefault(
                status,
                {
                    "description": description,
                    "content": {"application/problem+json": {"schema": problem.ref}},
                },
            )
        return operation

    def _problem(self) -> ResolvedComponent:
        component = ResolvedComponent(
            name="Problem", type=ResolvedComponent.SCHEMA, object="Problem", schema=PROBLEM
        )
        self.registry.register_on_missing(component)
        return component


class ApiKeyScheme(OpenApiAuthenticationExtension):
    target_class = "tenants.api.authentication.ApiKeyAuthentication"
    name = "apiKey"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "tk_<prefix>_<secret>",
            "description": "`manage.py create_api_key TENANT` makes one. It fixes the tenant and the scopes.",
        }
