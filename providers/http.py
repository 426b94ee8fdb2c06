"""Make a `Call` and say truthfully what became of it. The only module that knows an HTTP client.

`Http` is the bulk path (pyreqwest: Rust, one connection pool for the process). `send_now` is for the
few calls that a request thread or a command makes (httpx: nothing to start, nothing to keep).
Why there are two, and what each costs: docs/decisions/0004-http-client.md.

Both answer the same three things, and the line between the last two decides whether anybody is
messaged twice:

* `Reply`: the vendor's answer arrived whole, whatever its status. Redirects are not followed.
* `Unsent`: no connection came about, so nothing was written.
* `Lost`: a connection existed. Whatever went wrong then, the vendor may have read the request.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from types import TracebackType
from typing import Self

import httpx
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import BuilderError, DetailedPyreqwestError, PyreqwestError
from pyreqwest.http import HeaderMap
from pyreqwest.response import Response as Answer

from providers.base import Call, Lost, Reply, Response, Unsent, redact

CONNECT_TIMEOUT = 10.0
# Kept well below the few minutes after which address translators forget a quiet connection without a
# word, which would turn the next send into an unknown outcome.
IDLE_TIMEOUT = 60.0
TCP_KEEPALIVE = 20.0
USER_AGENT = "turnout"
TOO_LONG = "the answer is longer than any that makes sense"

# hyper-util's own words for "no connection came about"; everything later reads `client error
# (SendRequest)`. pyreqwest's classes do not draw this line: its ConnectError and ConnectTimeoutError
# also cover a reset and a silence after the request was written.
_NEVER_CONNECTED = "client error (Connect)"


class Http:
    """The bulk client: one for the process, created in the process that uses it.

    Keeps connections open and never repeats a request that was written, in part or in whole: the pool
    takes a fresh connection only where a kept one turned out closed before the first byte left.
    Its runtime is a thread of its own and does not survive `fork`.
    """

    __slots__ = ("_client", "_request", "_timeouts")

    def __init__(
        self, *, connect_timeout: float = CONNECT_TIMEOUT, idle_timeout: float = IDLE_TIMEOUT
    ) -> None:
        self._client: Client = (
            ClientBuilder()
            .user_agent(USER_AGENT)
            .follow_redirects(False)
            .referer(False)
            .no_proxy()
            .http1_only()
            .connect_timeout(timedelta(seconds=connect_timeout))
            .pool_idle_timeout(timedelta(seconds=idle_timeout))
            .tcp_keepalive(timedelta(seconds=TCP_KEEPALIVE))
            .build()
        )
        self._request = self._client.request
        self._timeouts: Callable[[float], timedelta] = lru_cache(maxsize=64)(_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection. Calls still under way end as `Lost`."""
        await self._client.close()

    async def send(self, call: Call) -> Response:
        """Make `call` once. Never raises for anything that the network or the vendor does."""
        try:
            request = (
                self._request(call.method, call.url)
                .headers(call.headers)
                .timeout(self._timeouts(call.timeout))
            )
            if call.body:
                request = request.body_bytes(call.body)
            ready = request.build_streamed()
        except (PyreqwestError, ValueError, TypeError) as error:
            return Unsent(redact(f"cannot be requested: {error}", call.secrets))
        started = time.perf_counter()
        try:
            async with ready as answer:
                status, headers, body = (
                    answer.status,
                    _headers(answer.headers),
                    await _body(answer, call.longest),
                )
        except PyreqwestError as error:
            return _explain(error, call.secrets)
        if body is None:
            return Lost(TOO_LONG)
        return Reply(status, headers, body, time.perf_counter() - started)


def send_now(call: Call, *, connect_timeout: float = CONNECT_TIMEOUT) -> Response:
    """Make `call` once and wait for it: for token checks and template lists, not for bulk.

    Opens and closes its own connection, so it is safe in any thread and after a fork.
    """
    started = time.perf_counter()
    try:
        request = httpx.Request(
            call.method,
            call.url,
            headers={"user-agent": USER_AGENT, **call.headers},
            content=call.body or None,
        )
        client = httpx.Client(
            verify=_trust() if request.url.scheme == "https" else False,
            trust_env=False,
            timeout=httpx.Timeout(call.timeout, connect=min(connect_timeout, call.timeout)),
        )
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        return Unsent(redact(f"cannot be requested: {error}", call.secrets))
    try:
        with client:
            answer = client.send(request, stream=True)
            body = bytearray()
            for chunk in answer.iter_bytes():
                body += chunk
                # httpx times each read, not the exchange: a body that trickles would never end.
                if time.perf_counter() - started > call.timeout:
                    return Lost("timed out while reading the answer")
                if len(body) > call.longest:
                    return Lost(TOO_LONG)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
        return Unsent(redact(_words(error), call.secrets))
    except httpx.HTTPError as error:
        return Lost(redact(_words(error), call.secrets))
    headers = dict(answer.headers.items())
    return Reply(answer.status_code, headers, bytes(body), time.perf_counter() - started)


async def _body(answer: Answer, longest: int) -> bytes | None:
    """Read a body whole; None as soon as it is certain to be longer, unpacked."""
    length = answer.get_header("content-length") or ""  # none where it comes packed or in pieces
    if length.isdecimal() and int(length) <= longest:
        return bytes(await answer.bytes())
    body, reader = bytearray(), answer.body_reader
    while (piece := await reader.read_chunk()) is not None:
        body += piece
        if len(body) > longest:
            return None
    return bytes(body)


def _headers(found: HeaderMap) -> dict[str, str]:
    """Read an answer's headers; one that is no ASCII is left out, since the client will not read it."""
    try:
        return dict(found.items())
    except ValueError:
        kept: dict[str, str] = {}
        for name in found:
            with suppress(ValueError):
                kept[name] = found[name]
        return kept


def _seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


@lru_cache(maxsize=1)
def _trust() -> ssl.SSLContext:
    """Load the trusted authorities once: 20 ms that every call would pay again."""
    return httpx.create_ssl_context()


def _words(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


def _explain(error: PyreqwestError, secrets: tuple[str, ...]) -> Unsent | Lost:
    causes = []
    if isinstance(error, DetailedPyreqwestError):
        causes = [cause["message"] for cause in error.details["causes"] or ()]
    # The first cause repeats the URL; the last one says what happened.
    reason = redact(f"{error.message}: {causes[-1]}" if causes else error.message, secrets)
    return Unsent(reason) if _NEVER_CONNECTED in causes or isinstance(error, BuilderError) else Lost(reason)
