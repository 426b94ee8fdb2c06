"""Every error of the API as a problem document (RFC 9457), `application/problem+json`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.core.signals import got_request_exception
from django.db import connection, transaction
from django.db.models import ProtectedError, RestrictedError
from django.http import Http404, HttpRequest, JsonResponse
from django.http.response import HttpResponseBase
from django.urls import is_valid_path
from django.views.decorators.csrf import csrf_exempt
from rest_framework import exceptions
from rest_framework.request import Request

from tenants.errors import ActionRefused
from tenants.scope import NoTenantScope, current_scope

log = structlog.get_logger(__name__)


class Conflict(exceptions.APIException):
    """Right in itself, but not now: the state of things is against it."""

    status_code = 409
    default_detail = "This conflicts with the present state."
    default_code = "conflict"


class Unprocessable(exceptions.APIException):
    """Understood, and it cannot mean what was sent."""

    status_code = 422
    default_detail = "This cannot be processed."
    default_code = "unprocessable"


class TooLarge(exceptions.APIException):
    status_code = 413
    default_code = "too_large"


class Problem(JsonResponse):
    """A problem document. `errors` are (field, message) pairs; a field of None means the whole body."""

    def __init__(
        self,
        request: HttpRequest | Request,
        status: int,
        detail: str,
        *,
        code: str,
        errors: Sequence[tuple[str | None, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        document = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "code": code,
            "instance": request.path,
            "request_id": structlog.contextvars.get_contextvars().get("request"),
            "errors": [{"field": field, "message": message} for field, message in errors],
        }
        super().__init__(
            document, status=status, headers=dict(headers or {}), content_type="application/problem+json"
        )


def problem_handler(error: Exception, context: dict[str, Any]) -> HttpResponseBase:
    """Answer for an exception of a view, and undo what the view had written: nothing is half-done.

    An error that nobody foresaw is logged with its traceback and answered with its request id.
    """
    request: Request = context["request"]
    _undo()
    known = _known(error)
    if known is None:
        got_request_exception.send(sender=problem_handler, request=request._request)
        log.error("request failed", path=request.path, exc_info=error)
        return Problem(
            request, 500, "Something broke on our side; it has been written down.", code="server_error"
        )
    headers = {}
    if auth_header := getattr(known, "auth_header", None):
        headers["WWW-Authenticate"] = auth_header
    if wait := getattr(known, "wait", None):
        headers["Retry-After"] = str(int(wait))
    errors = list(_flatten(known.detail)) if isinstance(known, exceptions.ValidationError) else []
    detail = str(known.detail) if not errors else _summary(errors)
    code = "invalid" if errors else str(known.get_codes())
    return Problem(request, known.status_code, detail, code=code, errors=errors, headers=headers)


def _undo() -> None:
    """Roll back the request's transaction; a request that was let in to no tenant has none."""
    try:
        current_scope()
    except NoTenantScope:
        return
    if connection.in_atomic_block:
        transaction.set_rollback(True)


def _known(error: Exception) -> exceptions.APIException | None:
    """Return what the API says to an exception; None when it is nobody's fault but ours."""
    match error:
        case exceptions.APIException():
            return error
        case Http404():
            return exceptions.NotFound("There is no such thing here.")
        case PermissionDenied():
            return exceptions.PermissionDenied()
        case ActionRefused(field=None):
            return Conflict(error.reason, code="refused")
        case ActionRefused(field=str(field)):
            return exceptions.ValidationError({field: [error.reason]})
        case ProtectedError() | RestrictedError():
            rows = error.args[1]
            kinds = sorted({str(row._meta.verbose_name_plural) for row in rows})
            return Conflict(f"Still used by {', '.join(kinds)}.", code="in_use")
        case RequestDataTooBig():
            limit = (settings.DATA_UPLOAD_MAX_MEMORY_SIZE or 0) // 1024 // 1024
            return TooLarge(f"The body is larger than {limit} MB.")
        case SuspiciousOperation():
            return exceptions.ParseError("This request is malformed.")
    return None


def _flatten(detail: Any, path: str | None = None) -> Iterator[tuple[str | None, str]]:
    """Yield (field, message); a field inside others is told by its path, e.g. `steps.1.template`."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            yield from _flatten(inner, path if name == "non_field_errors" else _join(path, str(name)))
    elif isinstance(detail, list | tuple):
        for number, inner in enumerate(detail):
            nested = isinstance(inner, Mapping | list | tuple)
            yield from _flatten(inner, _join(path, str(number)) if nested else path)
    else:
        yield path, str(detail)


def _join(path: str | None, name: str) -> str:
    return name if path is None else f"{path}.{name}"


def _summary(errors: list[tuple[str | None, str]]) -> str:
    field, message = errors[0]
    first = message if field is None else f"{field}: {message}"
    return first if len(errors) == 1 else f"{first} (and {len(errors) - 1} more)"


@csrf_exempt
def no_such_address(request: HttpRequest) -> Problem:
    """Answer every address under /api/ that is none."""
    detail = "There is no such address; /api/docs/ lists them."
    if not request.path_info.endswith("/") and is_valid_path(f"{request.path_info}/"):
        detail = f"There is no such address: did you mean {request.path}/, with a slash at the end?"
    return Problem(request, 404, detail, code="not_found")
