"""How Graph answers: error bodies and usage headers, shared by sends and reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson

from providers.base import Reply

# Calling on while throttled lengthens the block, so an unknown wait is a long one.
DEFAULT_WAIT = timedelta(minutes=5)
DETAIL_LENGTH = 500


@dataclass(slots=True, frozen=True)
class GraphError:
    """An `error` object of Graph. `detail` is the most telling of its texts, cut to 500 characters."""

    code: str
    subcode: str
    detail: str


def read_json(body: bytes) -> dict[str, Any] | None:
    """Read a JSON object; None for anything else."""
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return data if isinstance(data, dict) else None


def read_error(data: Mapping[str, Any] | None) -> GraphError | None:
    """Read the `error` of an answer; None when there is none in a shape that Graph uses."""
    error = data.get("error") if data else None
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    if isinstance(code, bool) or not isinstance(code, int | str) or code == "":
        return None
    more = error.get("error_data")
    detail = more.get("details") if isinstance(more, dict) else None
    return GraphError(
        code=str(code)[:32],
        subcode=str(error.get("error_subcode") or "")[:32],
        detail=str(detail or error.get("message") or "")[:DETAIL_LENGTH],
    )


def exhausted(reply: Reply) -> timedelta | None:
    """How long until calls are allowed again, when the usage headers say that they are used up; else None.

    `x-app-usage` is `{"call_count": 28, …}`, `x-business-use-case-usage` is `{"<id>": [{"call_count": 97, …,
    "estimated_time_to_regain_access": 0}]}`: percentages, throttled at 100, the time in minutes.
    """
    app = reply.headers.get("x-app-usage")
    business = reply.headers.get("x-business-use-case-usage")
    if app is None and business is None:
        return None
    usages: list[Any] = [read_json(app.encode())] if app else []
    for group in (read_json(business.encode()) or {}).values() if business else ():
        usages += group if isinstance(group, list) else [group]
    longest: timedelta | None = None
    for usage in usages:
        if not isinstance(usage, dict):
            continue
        minutes = usage.get("estimated_time_to_regain_access")
        minutes = min(minutes, 24 * 60) if isinstance(minutes, int | float) and minutes > 0 else 0
        shares = (usage.get(name) for name in ("call_count", "total_time", "total_cputime"))
        if minutes or any(isinstance(share, int | float) and share >= 100 for share in shares):
            wait = timedelta(minutes=minutes) if minutes else DEFAULT_WAIT
            longest = max(longest or wait, wait)
    return longest
