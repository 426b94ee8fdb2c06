"""Django under WSGI for an ASGI application: answered by threads, and no thread is held by who has gone.

Requests have one pool of threads and streamed bodies (exports) another, so that long downloads never take
the threads that API and admin need. A stream ends, its iterator closed, as soon as its client goes away or
takes nothing for a minute.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import structlog
from a2wsgi.wsgi import Body, build_environ
from django.core.exceptions import SuspiciousOperation

from config.hot import ClientGone, Receive, Scope, Send, header

log = structlog.stdlib.get_logger("turnout.web")

STALLED_SECONDS: Final = 60.0  # how long a client may take nothing of a stream before it counts as gone

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class DjangoThreads:
    """A WSGI application as an ASGI one. `threads` answer requests, `streams` send streamed bodies."""

    def __init__(self, app: Wsgi, *, threads: int = 16, streams: int = 12) -> None:
        self.app = app
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="django")
        self.streams = ThreadPoolExecutor(streams, thread_name_prefix="stream")
        self.answered_at = time.monotonic()
        self._asking: asyncio.Future[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, receive, send)
        try:
            made = await self._in_thread(self.threads, exchange.make, self.app)
            self.answered_at = time.monotonic()
            if made is None:
                return
            if made.body is None:
                await self._in_thread(self.streams, exchange.stream, made)
            else:
                await send(made.start)
                await send({"type": "http.response.body", "body": made.body})
        finally:
            exchange.end()

    async def answers(self, request: Scope, *, seconds: float) -> bool:
        """Say whether Django answers `request` in time, or, when it is busy, anybody else meanwhile.

        Asked by many at once it is one request: a pool that is stuck is not filled up by asking.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(self(request, _no_body, _nobody))
        await asyncio.wait([self._asking], timeout=seconds)
        if self._asking.done():
            return self._asking.exception() is None
        return time.monotonic() - self.answered_at < seconds

    async def _in_thread(self, pool: ThreadPoolExecutor, work: Callable[..., Any], *args: Any) -> Any:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(pool, context.run, work, *args)


@dataclass(slots=True)
class Made:
    """What Django answers: the head, and the whole body, or (`body` None) what streams it."""

    start: dict[str, Any]
    body: bytes | None
    pieces: Iterable[bytes] = ()


class Exchange:
    """One request and its client. `make` and `stream` run in a thread, the rest in the event loop."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.loop = asyncio.get_running_loop()
        self.gone = False
        self._receive, self._send = receive, send
        self._watching: asyncio.Task[None] | None = None
        # build_environ takes the query for ASCII, which a client need not keep to
        query = quote(scope["query_string"], safe="!#$%&'()*+,/:;=?@[]~").encode()
        asked: Any = {**scope, "query_string": query}
        self.environ: Any = build_environ(asked, Body(self.loop, self.receive))
        if header(scope, "transfer-encoding") is None and header(scope, "content-length") in (None, "0"):
            self._watching = self.loop.create_task(self._watch(body=True))

    def end(self) -> None:
        """Forget the client: whatever still runs for it ends at its next piece."""
        self.gone = True
        if self._watching:
            self._watching.cancel()

    # -- in a thread

    def make(self, app: Wsgi) -> Made | None:
        """Let Django answer; None when the client went away before its turn came."""
        if self.gone:
            return None
        head: list[dict[str, Any]] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            head[:] = [_start(status, headers)]

        pieces = app(self.environ, start_response)
        if getattr(pieces, "streaming", False):
            return Made(head[0], None, pieces)
        try:
            return Made(head[0], b"".join(pieces))
        finally:
            _close(pieces)

    def stream(self, made: Made) -> None:
        """Send piece by piece as fast as the client takes them; close what makes them whatever happens."""
        try:
            self._deliver(made.start)
            for piece in made.pieces:
                self._deliver({"type": "http.response.body", "body": piece, "more_body": True})
            self._deliver({"type": "http.response.body", "body": b""})
        except ClientGone as error:
            log.info("stream cut short", path=self.environ["PATH_INFO"], reason=str(error))
        finally:
            _close(made.pieces)

    def _deliver(self, message: dict[str, Any]) -> None:
        if self.gone:
            raise ClientGone("the client went away")
        asyncio.run_coroutine_threadsafe(self._send_in_time(message), self.loop).result()

    # -- in the event loop

    async def receive(self) -> Any:
        """Receive a part of the body; watch for the end of the connection once the last one is here."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.gone = True
            raise SuspiciousOperation("The client went away before its body was complete.")
        if not message.get("more_body"):
            self._watching = self.loop.create_task(self._watch(body=False))
        return message

    async def _watch(self, *, body: bool) -> None:
        """Wait until the connection ends. `body`: the empty body is still to come."""
        message = await self._receive()
        while body and message["type"] == "http.request":
            body = bool(message.get("more_body"))
            message = await self._receive()
        self.gone = self.gone or message["type"] == "http.disconnect"

    async def _send_in_time(self, message: dict[str, Any]) -> None:
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                await self._send(message)
        except TimeoutError:
            raise ClientGone(f"the client took nothing for {STALLED_SECONDS:.0f} s") from None
        except OSError as error:
            raise ClientGone("the client went away") from error


def _start(status: str, headers: list[tuple[str, str]]) -> dict[str, Any]:
    pairs = [
        (name.strip().lower().encode("latin-1"), value.strip().encode("latin-1")) for name, value in headers
    ]
    return {"type": "http.response.start", "status": int(status.split(" ", 1)[0]), "headers": pairs}


def _close(pieces: Iterable[bytes]) -> None:
    if close := getattr(pieces, "close", None):
        close()


async def _no_body() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _nobody(message: Any) -> None:
    """Send an answer to nobody: it was enough that there is one."""
