"""Send a template message, and read what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any

import orjson

from providers.base import (
    Call,
    Done,
    Failed,
    Hold,
    InDoubt,
    Lost,
    Outcome,
    Reply,
    Response,
    Retry,
    Scope,
    Throttled,
    Unsent,
    clean,
    identifier,
)
from providers.meta.graph import DEFAULT_WAIT, DETAIL_LENGTH, GraphError, exhausted, read_error, read_json
from providers.whatsapp.errors import ErrorClass, classify

# How long a number rests after it went too fast; its rate is cut as well, so this can be short.
THROUGHPUT_WAIT = timedelta(seconds=1)
PAIR_WAIT_MOST = timedelta(hours=1)
# Two `message_status` values besides `accepted`: Meta took the message and keeps it back.
HELD_STATUSES = frozenset({"held_for_quality_assessment", "paused"})
WAMID_LENGTH = 128
"""Characters of the longest message id that is kept: Meta's have about 60."""


def send_template(
    *,
    base_url: str,
    version: str,
    phone_number_id: str,
    token: str,
    to: str,
    template: str,
    language: str,
    components: Sequence[Mapping[str, Any]] = (),
    attempt: str,
    timeout: float = 30.0,
) -> Call:
    """Build the call that sends `template` to one number.

    `to` is E.164, with or without its plus. `attempt` comes back in every status webhook (Meta keeps
    256 characters of it) and is the only thing by which an answer that was lost can be found again:
    there is no idempotency key and no way to ask.
    """
    content: dict[str, Any] = {"name": template, "language": {"code": language}}
    if components:
        content["components"] = components
    return Call(
        "POST",
        f"{base_url}/{version}/{phone_number_id}/messages",
        _headers(token),
        orjson.dumps(
            {
                "messaging_product": "whatsapp",
                "recipient_type": "individual",
                "to": to.lstrip("+"),
                "type": "template",
                "template": content,
                "biz_opaque_callback_data": attempt,
            }
        ),
        timeout,
        (token,),
    )


@lru_cache(maxsize=1024)
def _headers(token: str) -> Mapping[str, str]:
    return {"authorization": f"Bearer {token}", "content-type": "application/json"}


def read_send(response: Response, *, attempt_number: int = 1, secrets: tuple[str, ...] = ()) -> Outcome:
    """Say what a send's response means for its row.

    `attempt_number` counts from 1 and lengthens the waits that grow. `secrets` (those of the call) are
    removed from the vendor's words. Accepted is neither sent nor delivered: that is told by webhook.
    A message id that no column takes (128 characters, no control characters) is left empty, since a part of
    it could be another message's: the attempt, which comes back in every status, finds the row.
    """
    if isinstance(response, Reply):
        data = read_json(response.body)
        if 200 <= response.status < 300 and data is not None:
            try:
                message = data["messages"][0]
                wamid = message["id"]
            except (KeyError, IndexError, TypeError):
                pass
            else:
                if isinstance(wamid, str) and wamid:
                    kept = identifier(wamid, WAMID_LENGTH)
                    status = message.get("message_status")
                    if isinstance(status, str) and status in HELD_STATUSES:
                        return Done({"wamid": kept, "vendor_status": status})
                    return Done({"wamid": kept})
        return _read_refusal(response, read_error(data, secrets), attempt_number)
    if isinstance(response, Unsent):
        return Retry("unsent", clean(response.reason, DETAIL_LENGTH, secrets))
    if isinstance(response, Lost):
        return InDoubt(clean(response.reason, DETAIL_LENGTH, secrets))
    raise TypeError(f"not a response: {type(response).__name__}")


def _read_refusal(reply: Reply, error: GraphError | None, attempt_number: int) -> Outcome:
    if error is None:
        return _read_without_error(reply)
    kind = classify(error.code)
    if kind is ErrorClass.UNKNOWN:
        if reply.status >= 500:
            kind = ErrorClass.TRANSIENT
        elif reply.status == 429:
            kind = ErrorClass.THROUGHPUT
    wait = exhausted(reply)
    if wait and kind in (ErrorClass.TRANSIENT, ErrorClass.THROUGHPUT, ErrorClass.UNKNOWN):
        kind = ErrorClass.CALL_LIMIT
    return _TREATMENTS[kind](error.code, error.detail, attempt_number, wait)


def _read_without_error(reply: Reply) -> Outcome:
    """Judge an answer that is not Graph's: a proxy's page, or something cut or garbled."""
    status = reply.status
    if status == 429:
        return Throttled(THROUGHPUT_WAIT, None, "http_429", "too many requests", slow_down=True)
    if status < 300:
        return InDoubt(f"HTTP {status} that cannot be read")
    # A gateway's word says nothing about what happened behind it. 408 may come from one too.
    if status >= 500 or status == 408:
        return InDoubt(f"HTTP {status} without an error of Graph's")
    if status == 401:
        return Hold("token", Scope.TOKEN, "http_401", "unauthorised")
    return Failed(f"http_{status}", f"HTTP {status} without an error of Graph's")


def _pair_wait(attempt_number: int) -> timedelta:
    """4^n seconds, Meta's advice for the pair limit, to at most an hour."""
    return min(timedelta(seconds=4 ** min(max(attempt_number, 1), 6)), PAIR_WAIT_MOST)


def _retry_media(code: str, detail: str, attempt_number: int, wait: timedelta | None) -> Outcome:
    """Once more only: the upload that the id stands for does not come back by asking again."""
    return Retry(code, detail) if attempt_number <= 1 else Failed(code, detail)


Treatment = Callable[[str, str, int, timedelta | None], Outcome]

_TREATMENTS: dict[ErrorClass, Treatment] = {
    ErrorClass.TRANSIENT: lambda code, detail, n, wait: Retry(code, detail),
    ErrorClass.THROUGHPUT: lambda code, detail, n, wait: Throttled(
        THROUGHPUT_WAIT, None, code, detail, slow_down=True
    ),
    ErrorClass.CALL_LIMIT: lambda code, detail, n, wait: Throttled(
        wait or DEFAULT_WAIT, Scope.TOKEN, code, detail
    ),
    # Uses an attempt: what the wait grows by, and what ends it when the pair stays blocked.
    ErrorClass.PAIR: lambda code, detail, n, wait: Retry(code, detail, after=_pair_wait(n)),
    ErrorClass.RESTRICTED: lambda code, detail, n, wait: Hold("spam", Scope.LANE, code, detail),
    ErrorClass.ECOSYSTEM: lambda code, detail, n, wait: Failed(code, detail),
    ErrorClass.RECIPIENT: lambda code, detail, n, wait: Failed(code, detail),
    ErrorClass.TEMPLATE: lambda code, detail, n, wait: Hold("template", Scope.FLOW, code, detail),
    ErrorClass.CONTENT: lambda code, detail, n, wait: Failed(code, detail),
    ErrorClass.MEDIA: _retry_media,
    ErrorClass.CREDENTIALS: lambda code, detail, n, wait: Hold("token", Scope.TOKEN, code, detail),
    ErrorClass.BILLING: lambda code, detail, n, wait: Hold("billing", Scope.TOKEN, code, detail),
    ErrorClass.UNKNOWN: lambda code, detail, n, wait: Failed(code, detail),
}
