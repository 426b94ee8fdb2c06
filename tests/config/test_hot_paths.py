"""Which requests the event loop answers itself, and which are Django's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from config.hot import Answer, HotPath, Paths, Receive, Scope


def says(word: bytes) -> HotPath:
    async def answer(_scope: Scope, _receive: Receive) -> Answer:
        return Answer(200, word)

    return answer


async def decline(_scope: Scope, _receive: Receive) -> None:
    return None


async def read_and_decline(_scope: Scope, receive: Receive) -> None:
    await receive()


@pytest.fixture
def paths() -> Paths:
    paths = Paths()
    paths.add("/metrics", says(b"figures"))
    paths.add("/api/v1/events/", says(b"events"), methods=("POST",))
    paths.add_prefix("/r/", says(b"link"), methods=("GET", "HEAD"))
    paths.add_prefix("/webhooks/", decline)
    paths.add_prefix("/webhooks/apify/", says(b"apify"))
    paths.add("/webhooks/apify/known/", says(b"exact"))
    paths.add("/careless/", read_and_decline)
    return paths


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"{}", "more_body": False}


def ask(paths: Paths, method: str, path: str) -> Answer | None:
    return asyncio.run(paths.answer({"type": "http", "method": method, "path": path}, receive))


CASES: list[tuple[str, str, bytes | None]] = [
    ("GET", "/metrics", b"figures"),
    ("GET", "/metrics/", None),
    ("GET", "/metrics/more", None),
    ("POST", "/api/v1/events/", b"events"),
    ("GET", "/api/v1/events/", None),
    ("POST", "/api/v1/events/7/", None),
    ("GET", "/r/abc", b"link"),
    ("HEAD", "/r/abc", b"link"),
    ("POST", "/r/abc", None),
    ("GET", "/r/", None),
    ("GET", "/reports/", None),
    ("POST", "/webhooks/unknown/", None),
    ("POST", "/webhooks/apify/secret/", b"apify"),
    ("POST", "/webhooks/apify/known/", b"exact"),
    ("GET", "/admin/", None),
]


@pytest.mark.parametrize(("method", "path", "word"), CASES)
def test_an_address_is_hot_by_its_method_and_its_path_or_the_longest_prefix(
    paths: Paths, method: str, path: str, word: bytes | None
) -> None:
    answer = ask(paths, method, path)
    assert (answer.body if answer else None) == word


def test_who_declines_must_not_have_read_the_body(paths: Paths) -> None:
    with pytest.raises(RuntimeError, match="declined after its body"):
        ask(paths, "POST", "/careless/")
