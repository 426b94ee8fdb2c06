"""The little HTTP that the hot paths need: read a body, send an answer. Bare ASGI, nothing between."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

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


HotPath = Callable[[Scope, Receive], Awaitable[Answer | None]]
"""Answers a request on the event loop. None declines it, and it goes to Django: before any of its body is
read, since what is read is gone."""

ANY_METHOD: Final = None


class Paths:
    """Which addresses are answered without Django, by method and by exact path or prefix.

    An exact path goes before a prefix and a longer prefix before a shorter one. What is not in here, or in
    here for other methods only, is Django's.
    """

    def __init__(self) -> None:
        self._exact: dict[str, list[tuple[Collection[str] | None, HotPath]]] = {}
        self._prefixes: list[tuple[str, Collection[str] | None, HotPath]] = []

    def add(self, path: str, answer: HotPath, *, methods: Collection[str] | None = ANY_METHOD) -> None:
        """Answer `path`, just as it is written: with a slash at its end is another address."""
        self._exact.setdefault(path, []).append((methods, answer))

    def add_prefix(
        self, prefix: str, answer: HotPath, *, methods: Collection[str] | None = ANY_METHOD
    ) -> None:
        """Answer every path that begins with `prefix`, e.g. `/r/`, and goes on."""
        self._prefixes.append((prefix, methods, answer))
        self._prefixes.sort(key=lambda entry: -len(entry[0]))

    def find(self, method: str, path: str) -> HotPath | None:
        for methods, answer in self._exact.get(path, ()):
            if methods is ANY_METHOD or method in methods:
                return answer
        for prefix, methods, answer in self._prefixes:
            if path.startswith(prefix) and path != prefix and (methods is ANY_METHOD or method in methods):
                return answer
        return None

    async def answer(self, scope: Scope, receive: Receive) -> Answer | None:
        """Answer a request, or None: it is Django's."""
        found = self.find(scope["method"], scope["path"])
        if found is None:
            return None
        body = _Unread(receive)
        answer = await found(scope, body)
        if answer is None and body.begun:
            raise RuntimeError(f"{scope['path']} was declined after its body had been read")
        return answer


class _Unread:
    """`receive`, and whether it was used."""

    def __init__(self, receive: Receive) -> None:
        self.begun = False
        self._receive = receive

    async def __call__(self) -> MutableMapping[str, Any]:
        self.begun = True
        return await self._receive()
