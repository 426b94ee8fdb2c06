"""A request and an answer, and the small HTTP/1.1 server between them.

Why its own: a stand-in must be able to reset a connection before or after it took a message, which no
ASGI server lets an application do, and it must note the time of arrival before anything else happens.
It speaks what HTTP clients in use send to loopback (keep-alive, Content-Length) and refuses the rest.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl

BODY_LIMIT = 8 * 1024 * 1024
HEAD_LIMIT = 64 * 1024


@dataclass(slots=True)
class Request:
    """One request. Header names are lower case; `arrived`: `time.monotonic()` at its last byte."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    arrived: float

    def params(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))


@dataclass(slots=True)
class Answer:
    """What to answer, `delay` seconds after arrival. With `reset`, the connection is reset instead.

    With `after`, the answer also waits for that future, but at most five seconds.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/json"
    delay: float = 0.0
    reset: bool = False
    after: asyncio.Future[None] | None = None


Handler = Callable[[Request], Answer]

_HEADS: dict[tuple[int, str], bytes] = {}


def _head(status: int, kind: str) -> bytes:
    if (status, kind) not in _HEADS:
        phrase = HTTPStatus(status).phrase
        _HEADS[status, kind] = (
            f"HTTP/1.1 {status} {phrase}\r\ncontent-type: {kind}\r\ncontent-length: ".encode()
        )
    return _HEADS[status, kind]


class Connection(asyncio.Protocol):
    """One client's connection: one request at a time, in order."""

    __slots__ = ("_answers", "_buffer", "_busy", "_close", "_handle", "_loop", "_transport")

    def __init__(self, handle: Handler, loop: asyncio.AbstractEventLoop) -> None:
        self._handle = handle
        self._loop = loop
        self._buffer = b""
        self._busy = False
        self._close = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream protocol gets a Transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        arrived = time.monotonic()
        self._buffer = self._buffer + data if self._buffer else data
        if not self._busy:
            self._next(arrived)

    def _next(self, arrived: float) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > HEAD_LIMIT:
                self._refuse(431)
            return
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        try:
            method, target, _version = lines[0].split(" ")
            length = int(headers.get("content-length", "0"))
        except ValueError:
            self._refuse(400)
            return
        if "transfer-encoding" in headers:
            self._refuse(411)
            return
        if not 0 <= length <= BODY_LIMIT:
            self._refuse(413)
            return
        start = end + 4
        if len(self._buffer) < start + length:
            if "expect" in headers and len(self._buffer) == start and self._transport:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        body = self._buffer[start : start + length]
        self._buffer = self._buffer[start + length :]
        self._busy = True
        self._close = headers.get("connection", "").lower() == "close"
        path, _, query = target.partition("?")
        answer = self._handle(Request(method, path, query, headers, body, arrived))
        wait = answer.delay - (time.monotonic() - arrived)
        if answer.after is not None:
            limit = self._loop.call_later(5.0, _resolve, answer.after)
            answer.after.add_done_callback(lambda _: self._write_after(limit, answer))
        elif wait > 0:
            self._loop.call_later(wait, self._write, answer)
        else:
            self._write(answer)

    def _write_after(self, limit: asyncio.TimerHandle, answer: Answer) -> None:
        limit.cancel()
        self._write(answer)

    def _write(self, answer: Answer) -> None:
        transport = self._transport
        if transport is None:
            return
        if answer.reset:
            raw = transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
            return
        extra = "".join(f"\r\n{name}: {value}" for name, value in answer.headers.items())
        ending = "\r\nconnection: close\r\n\r\n" if self._close else "\r\n\r\n"
        transport.write(
            b"%b%d%b%b"
            % (
                _head(answer.status, answer.kind),
                len(answer.body),
                (extra + ending).encode("latin-1"),
                answer.body,
            )
        )
        if self._close:
            transport.close()
            return
        self._busy = False
        if self._buffer:
            self._next(time.monotonic())

    def _refuse(self, status: int) -> None:
        self._close = True
        self._write(Answer(status, b"{}"))


def _resolve(waited_for: asyncio.Future[None]) -> None:
    if not waited_for.done():
        waited_for.set_result(None)
