"""How Graph answers: JSON, error bodies and usage headers, for sends and reads of every Meta API."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode

from providers.base import Call, Reply, Usage, clean, parse_json

# Calling on while throttled lengthens the block, so an unknown wait is a long one.
DEFAULT_WAIT = timedelta(minutes=5)
LONGEST_WAIT = timedelta(days=1)
LONGEST_MINUTES = LONGEST_WAIT / timedelta(minutes=1)
MOST_PERCENT = 1_000.0  # more than this of a limit says nothing more
DETAIL_LENGTH = 500
CODE_LENGTH = 32
_APP_USAGE, _BUSINESS_USAGE = "x-app-usage", "x-business-use-case-usage"
_SHARES = ("call_count", "total_time", "total_cputime")


@dataclass(slots=True, frozen=True)
class GraphError:
    """An `error` object of Graph. `detail` is the most telling of its texts, cut to 500 characters."""

    code: str
    subcode: str
    detail: str


def get(*, base_url: str, version: str, path: str, token: str, timeout: float, **query: str) -> Call:
    """Build a GET of one object or edge, with the token in the header only."""
    url = f"{base_url}/{version}/{quote(path)}?{urlencode(query)}"
    return Call("GET", url, {"authorization": f"Bearer {token}"}, timeout=timeout, secrets=(token,))


def read_json(body: bytes) -> dict[str, Any] | None:
    """Read a JSON object; None for anything else."""
    try:
        data = parse_json(body)
    except ValueError:
        return None
    return data if isinstance(data, dict) else None


def read_error(data: Mapping[str, Any] | None, secrets: tuple[str, ...] = ()) -> GraphError | None:
    """Read the `error` of an answer, without `secrets`; None when there is none in Graph's shape."""
    error = data.get("error") if data else None
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    if isinstance(code, bool) or not isinstance(code, int | str) or code == "":
        return None
    more = error.get("error_data")
    detail = more.get("details") if isinstance(more, dict) else None
    return GraphError(
        code=clean(code, CODE_LENGTH),
        subcode=clean(error.get("error_subcode"), CODE_LENGTH),
        detail=clean(detail or error.get("message"), DETAIL_LENGTH, secrets),
    )


def read_usage(reply: Reply) -> Usage | None:
    """Read how much of the allowed calls is used, from the usage headers; None when there are none.

    `x-app-usage` is `{"call_count": 28, …}`, `x-business-use-case-usage` is `{"<id>": [{"call_count": 97, …,
    "estimated_time_to_regain_access": 0}]}`: percentages, throttled at 100, the time in minutes. The highest
    share and the longest wait count. Meta tells no absolute numbers.
    """
    if _APP_USAGE not in reply.headers and _BUSINESS_USAGE not in reply.headers:
        return None
    share: float | None = None
    minutes = 0.0
    for usage in _usages(reply.headers):
        for name in _SHARES:
            found = _figure(usage.get(name), MOST_PERCENT)
            if found is not None:
                share = max(share or 0.0, found / 100)
        minutes = max(minutes, _figure(usage.get("estimated_time_to_regain_access"), LONGEST_MINUTES) or 0.0)
    if share is None and not minutes:
        return None
    return Usage("calls", share, None, None, timedelta(minutes=minutes) if minutes else None)


def exhausted(reply: Reply) -> timedelta | None:
    """How long until calls are allowed again, when the usage headers say that they are used up; else None."""
    usage = read_usage(reply)
    if usage is None:
        return None
    if usage.regain_after is not None:
        return usage.regain_after
    return DEFAULT_WAIT if usage.share is not None and usage.share >= 1 else None


def _figure(value: object, most: float) -> float | None:
    """Read a number between 0 and `most`; None for anything that is none, NaN included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return None
    return float(max(0, min(value, most)))


def _usages(headers: Mapping[str, str]) -> Iterator[Mapping[str, Any]]:
    app = headers.get(_APP_USAGE)
    business = headers.get(_BUSINESS_USAGE)
    groups: list[Any] = [read_json(app.encode(errors="replace"))] if app else []
    if business:
        groups += (read_json(business.encode(errors="replace")) or {}).values()
    for group in groups:
        yield from (one for one in (group if isinstance(group, list) else [group]) if isinstance(one, dict))
