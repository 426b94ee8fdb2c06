"""What every request of Django's half gets: a name, carried by its log lines and its answer."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable

import structlog
from django.http import HttpRequest, HttpResponse
from structlog.contextvars import bound_contextvars, unbind_contextvars

log = structlog.stdlib.get_logger("turnout.requests")
NAME = re.compile(r"[\w.:-]{4,64}", re.ASCII)


def request_name(given: str | None) -> str:
    """Keep the name that the proxy or the client gave, if it is one; else make one."""
    return given if given and NAME.fullmatch(given) else uuid.uuid4().hex[:16]


class RequestMiddleware:
    """Log one line per request. The query stays out: secrets and people's data travel there."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        name = request_name(request.headers.get("X-Request-ID"))
        try:
            with bound_contextvars(request=name):
                began = time.perf_counter()
                response = self.get_response(request)
                log.info(
                    "request",
                    method=request.method,
                    path=request.path,
                    status=response.status_code,
                    ms=round((time.perf_counter() - began) * 1000, 1),
                )
        finally:
            unbind_contextvars("tenant", "user")  # bound on the way in, for the line above
        response.headers["X-Request-ID"] = name
        return response
