"""`/metrics` is kept inside whatever the proxy lets through."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from config import asgi

pytestmark = pytest.mark.django_db(transaction=True)


def get(path: str, *, peer: str = "127.0.0.1", **headers: str) -> httpx.Response:
    raw = {name: value.encode("latin-1") for name, value in headers.items()}

    async def talk() -> httpx.Response:
        transport = httpx.ASGITransport(app=asgi.Application(threads=1), client=(peer, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path, headers=raw)

    return asyncio.run(talk())


@pytest.mark.parametrize("path", ["/metrics/", "/metrics//", "//metrics", "/metrics%2F", "/Metrics"])
def test_no_other_address_tells_the_figures(path: str) -> None:
    """A proxy's rule for `/metrics` alone has to be enough."""
    answer = get(path)
    assert (answer.status_code, b"turnout_" in answer.content) == (404, False)


TOKEN = "a token of twenty characters"
ASKED: list[tuple[str, str, str, dict[str, str], int]] = [
    ("from this machine", "", "127.0.0.1", {}, 200),
    ("from this machine, IPv6", "", "::1", {}, 200),
    ("from elsewhere", "", "10.0.0.7", {}, 403),
    ("from a socket that has no address", "", "", {}, 403),
    ("forwarded by a proxy beside us", "", "127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, 403),
    ("with the token", TOKEN, "10.0.0.7", {"Authorization": f"Bearer {TOKEN}"}, 200),
    ("with the token, forwarded", TOKEN, "10.0.0.7",
     {"Authorization": f"Bearer {TOKEN}", "X-Forwarded-For": "10.0.0.9"}, 200),
    ("with another", TOKEN, "127.0.0.1", {"Authorization": "Bearer guess"}, 403),
    ("with none where one is set", TOKEN, "127.0.0.1", {}, 403),
    ("with a word that is not ASCII", TOKEN, "127.0.0.1", {"Authorization": "Bearer \xe9"}, 403),
]  # fmt: skip


@pytest.mark.parametrize(
    ("token", "peer", "headers", "status"), [case[1:] for case in ASKED], ids=[case[0] for case in ASKED]
)
def test_the_figures_are_told_to_this_machine_or_to_who_has_the_token(
    token: str, peer: str, headers: dict[str, str], status: int, settings: Any
) -> None:
    settings.METRICS_TOKEN = token
    answer = get("/metrics", peer=peer, **headers)
    assert (answer.status_code, b"turnout_queue_waiting" in answer.content) == (status, status == 200)
    assert TOKEN not in answer.text
