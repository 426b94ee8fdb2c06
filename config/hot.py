"""The little HTTP that the hot paths need: read a body, send an answer. Bare ASGI, nothing between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

import orjson

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class TooLarge(Exception):
    """The body is longer than this path takes."""


class ClientGone(Exception):
    """The client closed the connection before its body was complete."""


@dataclass(slots=True, frozen=True)
class Answer:
    status: int
    body: bytes = b""
    kind: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


def json_answer(status: int, data: Any, **headers: str) -> Answer:
    return Answer(status, orjson.dumps(data), "application/json", headers)


def problem(status: int, title: str, **headers: str) -> Answer:
    """Answer with an RFC 9457 problem document, as the API does."""
    body = orjson.dumps({"type": "about:blank", "title": title, "status": status})
    return Answer(status, body, "application/problem+json", headers)


def header(scope: Scope, name: str) -> str | None:
    wanted = name.lower().encode()
    for key, value in scope["headers"]:
        if key == wanted:
            text: str = value.decode("latin-1")
            return text
    return None


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """Read the whole body, or raise TooLarge as soon as it is certain to pass `limit`."""
    length = header(scope, "content-length") or "0"
    if length.isdecimal() and int(length) > limit:
        raise TooLarge
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLarge
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


async def send_answer(send: Send, answer: Answer) -> None:
    headers = {"content-type": answer.kind, "content-length": str(len(answer.body)), **answer.headers}
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": answer.body})
