"""A request and an answer, and the small HTTP/1.1 server between them.

Why its own: a stand-in must be able to reset a connection before or after it took a message, which no
ASGI server lets an application do, and it must know the time of arrival as the kernel saw it.
It speaks what HTTP clients in use send to loopback (keep-alive, Content-Length) and refuses the rest.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl

BODY_LIMIT = 8 * 1024 * 1024
HEAD_LIMIT = 64 * 1024
_SO_TIMESTAMPNS = 35  # Linux; Python does not name it
AFTER_SECONDS = 1.0
"""An answer waits at most this long for what shall come before it."""


@dataclass(slots=True)
class Request:
    """One request. Header names are lower case; `arrived` is on `time.monotonic()`'s clock."""

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

    With `after`, the answer also waits for that future, but at most a second.
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


class Connection:
    """One client's connection: one request at a time, in order.

    Reads its socket itself, since only so does the kernel's note of arrival come along.
    """

    __slots__ = ("__weakref__", "_buffer", "_busy", "_close", "_handle", "_loop", "_socket", "_unsent")

    def __init__(self, handle: Handler, loop: asyncio.AbstractEventLoop, peer: socket.socket) -> None:
        peer.setblocking(False)
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._handle = handle
        self._loop = loop
        self._socket: socket.socket | None = peer
        self._buffer = b""
        self._unsent = b""
        self._busy = False
        self._close = False
        loop.add_reader(peer.fileno(), self._read)

    def end(self, *, reset: bool = False) -> None:
        """Close, or reset, the connection. Harmless when it is closed already."""
        peer, self._socket = self._socket, None
        if peer is None:
            return
        self._loop.remove_reader(peer.fileno())
        self._loop.remove_writer(peer.fileno())
        if reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            data, notes, _, _ = self._socket.recvmsg(65536, 64)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end()
            return
        arrived = arrival(notes)
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
            if "expect" in headers and len(self._buffer) == start and self._socket:
                self._socket.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        body = self._buffer[start : start + length]
        self._buffer = self._buffer[start + length :]
        self._busy = True
        self._close = headers.get("connection", "").lower() == "close"
        path, _, query = target.partition("?")
        answer = self._handle(Request(method, path, query, headers, body, arrived))
        wait = answer.delay - (time.monotonic() - arrived)
        if answer.after is not None:
            limit = self._loop.call_later(AFTER_SECONDS, _resolve, answer.after)
            answer.after.add_done_callback(lambda _: self._write_after(limit, answer))
        elif wait > 0:
            self._loop.call_later(wait, self._write, answer)
        else:
            self._write(answer)

    def _write_after(self, limit: asyncio.TimerHandle, answer: Answer) -> None:
        limit.cancel()
        self._write(answer)

    def _write(self, answer: Answer) -> None:
        if self._socket is None:
            return
        if answer.reset:
            self.end(reset=True)
            return
        extra = "".join(f"\r\n{name}: {value}" for name, value in answer.headers.items())
        ending = "\r\nconnection: close\r\n\r\n" if self._close else "\r\n\r\n"
        head = _head(answer.status, answer.kind)
        self._unsent = b"%b%d%b%b" % (head, len(answer.body), (extra + ending).encode("latin-1"), answer.body)
        self._flush()

    def _flush(self) -> None:
        if self._socket is None:
            return
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.end()
            return
        self._unsent = self._unsent[sent:]
        if self._unsent:
            self._loop.add_writer(self._socket.fileno(), self._flush)
            return
        self._loop.remove_writer(self._socket.fileno())
        if self._close:
            self.end()
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


def note_arrivals(listener: socket.socket) -> None:
    """Have the kernel note when bytes arrive on this listener's connections, where it can (Linux)."""
    if sys.platform == "linux":
        listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)


def arrival(notes: list[tuple[int, int, bytes]]) -> float:
    """Return on `time.monotonic()`'s clock when the bytes arrived: by the kernel's note, else now.

    A process that waited for its turn on a busy machine would otherwise see arrivals in bunches, and
    blame the sender for them.
    """
    now = time.monotonic()
    for level, kind, data in notes:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS and len(data) == 16:
            seconds, nanoseconds = struct.unpack("qq", data)
            age = time.time() - seconds - nanoseconds / 1e9
            if 0 <= age < 10:  # else the clock was set meanwhile
                return now - age
    return now
