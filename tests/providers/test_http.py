"""What became of a call is told truthfully: the table that decides whether anybody is messaged twice."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from providers.base import Call, Lost, Reply, Response, Unsent
from providers.http import Http, send_now
from tests.providers import trouble

SECRET = "s3cret"


def by_http(call: Call, connect_timeout: float = 10.0) -> Response:
    async def once() -> Response:
        async with Http(connect_timeout=connect_timeout) as http:
            return await http.send(call)

    return asyncio.run(once())


def by_send_now(call: Call, connect_timeout: float = 10.0) -> Response:
    return send_now(call, connect_timeout=connect_timeout)


BOTH = pytest.mark.parametrize("make", [by_http, by_send_now])


def post(url: str, timeout: float = 5.0, headers: dict[str, str] | None = None) -> Call:
    return Call(
        "POST", url, {"authorization": f"Bearer {SECRET}", **(headers or {})}, b"{}", timeout, (SECRET,)
    )


@contextlib.contextmanager
def refused() -> Iterator[Call]:
    with trouble.refused_port() as port:
        yield post(f"http://127.0.0.1:{port}/?key={SECRET}")


@contextlib.contextmanager
def silent() -> Iterator[Call]:
    with trouble.silent_port() as port:
        yield post(f"http://127.0.0.1:{port}/?key={SECRET}")


@contextlib.contextmanager
def plain_port() -> Iterator[Call]:
    with trouble.serving(trouble.plain_where_tls_is_expected) as server:
        yield post(server.url("https"))


def fixed(call: Call) -> Callable[[], contextlib.AbstractContextManager[Call]]:
    return lambda: contextlib.nullcontext(call)


@BOTH
@pytest.mark.parametrize(
    "situation",
    [
        pytest.param(refused, id="refused port"),
        pytest.param(silent, id="connect timeout"),
        pytest.param(plain_port, id="TLS to a plain port"),
        pytest.param(fixed(post(f"http://nowhere.invalid/?key={SECRET}")), id="no such host"),
        pytest.param(fixed(post(f"nonsense {SECRET}")), id="not a URL"),
        pytest.param(fixed(post(f"gopher://127.0.0.1/?key={SECRET}")), id="scheme nobody speaks"),
        pytest.param(
            fixed(post("http://127.0.0.1:1/", headers={"x-a": f"{SECRET}\nx-b: 1"})), id="broken header"
        ),
        pytest.param(
            fixed(post("http://127.0.0.1:1/", headers={"x-a": f"{SECRET}€"})), id="header beyond Latin-1"
        ),
    ],
)
def test_no_connection_means_unsent(make, situation):
    with situation() as call:
        response = make(call, connect_timeout=0.4)
    assert isinstance(response, Unsent), response
    assert response.reason
    assert SECRET not in str(response)


@BOTH
@pytest.mark.parametrize(
    "behave",
    [
        trouble.close_at_once,
        trouble.read_then_close,
        trouble.read_then_reset,
        trouble.read_then_hang,
        trouble.half_a_body,
        trouble.body_that_stops,
        trouble.body_that_trickles,
        trouble.not_http,
        trouble.broken_gzip,
    ],
)
def test_a_connection_without_a_whole_answer_means_lost(make, behave):
    with trouble.serving(behave) as server:
        started = time.monotonic()
        response = make(post(server.url(), timeout=0.5), connect_timeout=0.4)
        took = time.monotonic() - started
    assert isinstance(response, Lost), response
    assert response.reason
    assert SECRET not in str(response)
    assert took < 3
    assert len(server.requests) <= 1, "a written request was repeated"


@BOTH
@pytest.mark.parametrize("behave", [trouble.long_body, trouble.long_body_in_pieces, trouble.long_body_packed])
def test_an_answer_without_end_is_lost_and_not_kept(make, behave):
    with trouble.serving(behave) as server:
        before = peak_mb()
        response = make(post(server.url(), timeout=20))
        grown = peak_mb() - before
    assert isinstance(response, Lost), type(response)
    assert "longer" in response.reason
    piece = (
        64 if behave is trouble.long_body_packed else 1
    )  # MB that 64 kB unpack to: httpx unpacks it at once
    assert grown < 30 + 2 * piece, "of the 300 MB that it was"


def peak_mb() -> float:
    """The most that this process has had in memory, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@BOTH
def test_a_reset_at_once_is_told_as_the_client_met_it(make):
    """It may come while connecting, and then nothing was written, or just after. Nobody read it."""
    with trouble.serving(trouble.reset_at_once) as server:
        response = make(post(server.url()))
    assert isinstance(response, Unsent | Lost), response
    assert SECRET not in str(response)
    assert server.requests == []


@BOTH
@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (trouble.OK, 200, b"ok"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n<garbage", 200, b"<garbage"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", 302, b""),
        (b"HTTP/1.1 429 Too Many\r\ncontent-length: 2\r\n\r\n{}", 429, b"{}"),
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\n<h1>", 502, b"<h1>"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", 200, b"ok"),
    ],
)
def test_a_whole_answer_is_a_reply_whatever_it_says(make, answer, status, body):
    with trouble.serving(trouble.answering(answer)) as server:
        response = make(post(server.url()))
    assert isinstance(response, Reply), response
    assert (response.status, response.body) == (status, body)
    assert 0 < response.elapsed < 5
    assert len(server.requests) == 1


@BOTH
def test_the_request_arrives_as_it_was_asked_for(make):
    with trouble.serving(trouble.answering(trouble.OK)) as server:
        response = make(Call("POST", server.url(), {"content-type": "application/json"}, b'{"a":1}'))
    assert isinstance(response, Reply)
    assert response.headers["x-app-usage"] == "{}"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v25.0/1/messages?key=s3cret HTTP/1.1\r\n")
    assert b"content-type: application/json" in head.lower()
    assert b"user-agent: turnout" in head.lower()
    assert body == b'{"a":1}'


def test_connections_are_kept():
    async def many() -> None:
        async with Http() as http:
            for _ in range(20):
                assert isinstance(await http.send(post(server.url())), Reply)

    with trouble.serving(trouble.answering(trouble.OK)) as server:
        asyncio.run(many())
    assert (server.connections, len(server.requests)) == (1, 20)


def test_a_kept_connection_closed_meanwhile_is_replaced_before_anything_is_written():
    def answer_once_then_close(server: trouble.Server, peer: socket.socket) -> None:
        server.read(peer)
        peer.sendall(trouble.OK)

    async def two() -> list[Response]:
        async with Http() as http:
            first = await http.send(post(server.url()))
            await asyncio.sleep(0.2)  # the server's FIN is on its way; nothing on our side shows its arrival
            return [first, await http.send(post(server.url()))]

    with trouble.serving(answer_once_then_close) as server:
        assert all(isinstance(response, Reply) for response in asyncio.run(two()))
    assert (server.connections, len(server.requests)) == (2, 2)


def test_a_request_written_on_a_kept_connection_is_never_repeated():
    def answer_one_reset_the_next(server: trouble.Server, peer: socket.socket) -> None:
        server.read(peer)
        peer.sendall(trouble.OK)
        server.read(peer)
        trouble.reset(peer)

    async def two() -> list[Response]:
        async with Http() as http:
            return [await http.send(post(server.url())), await http.send(post(server.url()))]

    with trouble.serving(answer_one_reset_the_next) as server:
        first, second = asyncio.run(two())
    assert isinstance(first, Reply)
    assert isinstance(second, Lost)
    assert (server.connections, len(server.requests)) == (1, 2)


def test_racing_a_server_that_closes_idle_connections_repeats_no_request():
    """The server closes each connection a moment after answering, just when the next request is written."""
    pause = iter(range(10_000))

    def close_soon(server: trouble.Server, peer: socket.socket) -> None:
        server.read(peer)
        peer.sendall(trouble.OK)
        time.sleep((next(pause) % 20) / 10_000)

    async def many() -> list[Response]:
        async with Http() as http:
            out = []
            for number in range(300):
                call = Call("POST", server.url(), {}, b"%d" % number)
                out.append(await http.send(call))
                await asyncio.sleep((number % 7) / 4_000)
            return out

    with trouble.serving(close_soon) as server:
        responses = asyncio.run(many())
    seen = [request.partition(b"\r\n\r\n")[2] for request in server.requests]
    assert len(seen) == len(set(seen)), "a request was read twice"
    answered = [number for number, response in enumerate(responses) if isinstance(response, Reply)]
    assert set(answered) <= {int(body) for body in seen}
    assert not any(isinstance(response, Unsent) for response in responses)
    assert len(answered) > 100


def test_a_call_cut_off_by_closing_the_client_is_lost():
    async def cut() -> Response:
        http = Http()
        under_way = asyncio.create_task(http.send(post(server.url())))
        await asyncio.to_thread(wait_for_request)
        await http.aclose()
        return await under_way

    def wait_for_request() -> None:
        with server.changed:
            assert server.changed.wait_for(lambda: server.requests, 5)

    with trouble.serving(trouble.read_then_hang) as server:
        assert isinstance(asyncio.run(cut()), Lost)


def test_a_call_shows_no_secret():
    call = post(f"http://127.0.0.1/?key={SECRET}&token={SECRET}")
    assert SECRET not in str(call)
    assert SECRET not in repr(call)
    assert SECRET not in f"{[call]}"


def test_send_now_works_from_many_threads_at_once():
    def work() -> None:
        out.append(send_now(post(server.url())))

    out: list[Response] = []
    with trouble.serving(trouble.answering(trouble.OK)) as server:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert len(out) == 8
    assert all(isinstance(response, Reply) for response in out)


FORKED = """
import asyncio, os, sys
from providers.base import Call, Reply
from providers.http import Http, send_now
call = Call("GET", sys.argv[1], timeout=5)

async def once():
    async with Http() as http:
        return await http.send(call)

assert isinstance(asyncio.run(once()), Reply)
child = os.fork()
if not child:
    try:
        asyncio.run(once())
    except RuntimeError as error:
        refused = "fork" in str(error)
    os._exit(7 if refused and isinstance(send_now(call), Reply) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_after_a_fork_the_bulk_client_refuses_loudly_and_send_now_works():
    with trouble.serving(trouble.answering(trouble.OK)) as server:
        command = [sys.executable, "-c", FORKED, server.url()]
        done = subprocess.run(
            command, cwd=Path(__file__).parents[2], capture_output=True, timeout=30, check=False
        )
    assert done.returncode == 7, done.stderr
