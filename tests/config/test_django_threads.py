"""Django's threads behind the event loop: who is answered, who is not waited for, and what is closed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from config import django_threads
from config.django_threads import DjangoThreads

ASKED: dict[str, Any] = {
    "type": "http",
    "method": "GET",
    "path": "/",
    "query_string": b"",
    "headers": [(b"host", b"localhost")],
    "http_version": "1.1",
}


class Client:
    """One client: the parts of its body, then nothing until it `leave`s. What it got is in `got`."""

    def __init__(self, *parts: bytes, takes: int = 1_000_000, whole: bool = True) -> None:
        size = sum(map(len, parts))
        self.scope = ASKED | {"headers": [(b"content-length", b"%d" % size)] if parts else []}
        self.parts = [
            {"type": "http.request", "body": part, "more_body": number < len(parts) or not whole}
            for number, part in enumerate(parts or [b""], 1)
        ]
        self.takes = takes
        self.got: list[Any] = []
        self.left = asyncio.Event()
        self.served = asyncio.Event()  # a few pieces have come

    def leave(self) -> None:
        self.left.set()

    async def receive(self) -> Any:
        if self.parts:
            return self.parts.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if len(self.got) >= self.takes:
            await asyncio.Event().wait()  # takes nothing more
        self.got.append(message)
        if len(self.got) == 5:
            self.served.set()

    async def ask(self, threads: DjangoThreads) -> None:
        await threads(self.scope, self.receive, self.send)

    @property
    def status(self) -> int | None:
        return self.got[0]["status"] if self.got else None


class Stream:
    """A streamed answer without end, and whether it was closed."""

    streaming = True

    def __init__(self) -> None:
        self.made, self.closed = 0, threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.made += 1
            yield b"piece"

    def close(self) -> None:
        self.closed.set()


def answering(body: Callable[[dict[str, Any]], Iterable[bytes]]) -> Any:
    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        made = body(environ)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return made

    return app


async def in_thread(wait: Callable[..., Any]) -> None:
    assert await asyncio.to_thread(wait, 10)


def test_a_stream_ends_when_its_client_goes_away() -> None:
    stream = Stream()

    async def talk() -> None:
        client = Client()
        threads = DjangoThreads(answering(lambda _: stream), threads=1, streams=1)
        asked = asyncio.create_task(client.ask(threads))
        await asyncio.wait_for(client.served.wait(), 10)
        client.leave()
        await asyncio.wait_for(asked, 10)

    asyncio.run(talk())
    assert stream.closed.is_set()


def test_a_stream_ends_when_its_client_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(django_threads, "STALLED_SECONDS", 0.05)
    stream = Stream()

    async def talk() -> None:
        threads = DjangoThreads(answering(lambda _: stream), threads=1, streams=1)
        await asyncio.wait_for(Client(takes=3).ask(threads), 10)

    asyncio.run(talk())
    assert stream.closed.is_set()
    assert stream.made == 3


def test_streams_take_no_thread_that_answers_requests() -> None:
    async def talk() -> None:
        def app(environ: dict[str, Any]) -> Iterable[bytes]:
            return Stream() if environ["PATH_INFO"] == "/stream" else [b"ok"]

        threads = DjangoThreads(answering(app), threads=1, streams=1)
        streaming = [Client(takes=2), Client(takes=2), Client(takes=2)]
        for client in streaming:
            client.scope = ASKED | {"path": "/stream"}
        tasks = [asyncio.create_task(client.ask(threads)) for client in streaming]
        other = Client()
        await asyncio.wait_for(other.ask(threads), 10)
        assert (other.status, other.got[1]["body"]) == (200, b"ok")
        for client in streaming:
            client.leave()
        for task in tasks:
            task.cancel()

    asyncio.run(talk())


def test_who_left_before_its_turn_is_not_answered_for() -> None:
    begun, go_on = threading.Event(), threading.Event()
    answered: list[str] = []

    def app(environ: dict[str, Any]) -> Iterable[bytes]:
        answered.append(environ["PATH_INFO"])
        begun.set()
        go_on.wait(10)
        return [b"ok"]

    async def talk() -> None:
        threads = DjangoThreads(answering(app), threads=1)
        first, second = Client(), Client()
        second.scope = ASKED | {"path": "/second"}
        one = asyncio.create_task(first.ask(threads))
        await in_thread(begun.wait)
        two = asyncio.create_task(second.ask(threads))
        await asyncio.sleep(0)
        second.leave()
        await asyncio.sleep(0.01)  # the loop hears of it before the thread is free
        go_on.set()
        await asyncio.gather(one, two)
        assert (first.status, second.status) == (200, None)

    asyncio.run(talk())
    assert answered == ["/"]


def test_a_body_that_was_cut_short_is_not_taken_for_a_short_one() -> None:
    read: list[Any] = []

    def app(environ: dict[str, Any]) -> Iterable[bytes]:
        try:
            read.append(environ["wsgi.input"].read(10))
        except Exception as error:  # noqa: BLE001 - which one is what is tested
            read.append(type(error).__name__)
        return [b"ok"]

    async def talk() -> None:
        threads = DjangoThreads(answering(app), threads=1)
        await Client(b"01234", b"56789").ask(threads)
        cut = Client(b"01234", whole=False)
        cut.leave()
        await cut.ask(threads)

    asyncio.run(talk())
    assert read == [b"0123456789", "SuspiciousOperation"]


def test_alive_while_threads_answer_and_not_when_all_of_them_are_stuck() -> None:
    stuck, go_on = threading.Event(), threading.Event()
    asked: list[str] = []

    def app(environ: dict[str, Any]) -> Iterable[bytes]:
        asked.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/slow":
            stuck.set()
            go_on.wait(10)
        return [b"ok"]

    async def talk() -> tuple[list[bool], bool, bool]:
        threads = DjangoThreads(answering(app), threads=1)
        at_first = await threads.answers(ASKED, seconds=5)
        slow = Client()
        slow.scope = ASKED | {"path": "/slow"}
        asking = asyncio.create_task(slow.ask(threads))
        await in_thread(stuck.wait)
        threads.answered_at -= 1  # nobody was answered lately
        while_stuck = await asyncio.gather(*(threads.answers(ASKED, seconds=0.05) for _ in range(5)))
        go_on.set()
        await asking
        return while_stuck, at_first, await threads.answers(ASKED, seconds=5)

    while_stuck, at_first, afterwards = asyncio.run(talk())
    assert (at_first, while_stuck, afterwards) == (True, [False] * 5, True)
    assert asked.count("/") <= 3, "who asks a stuck pool does not fill it"


def test_busy_is_alive() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def app(_environ: dict[str, Any]) -> Iterable[bytes]:
        begun.set()
        go_on.wait(10)
        return [b"ok"]

    async def talk() -> bool:
        threads = DjangoThreads(answering(app), threads=1)
        asking = asyncio.create_task(Client().ask(threads))
        await in_thread(begun.wait)
        threads.answered_at += 60  # others are answered all the time
        alive = await threads.answers(ASKED, seconds=0.01)
        go_on.set()
        await asking
        return alive

    assert asyncio.run(talk())
