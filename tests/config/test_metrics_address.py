"""`/metrics` is kept inside whatever the proxy lets through."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from config import asgi

pytestmark = pytest.mark.django_db(transaction=True)


def get(path: str, *, peer: str = "127.0.0.1", **headers: str) -> httpx.Response:
    async def talk() -> httpx.Response:
        transport = httpx.ASGITransport(app=asgi.Application(threads=1), client=(peer, 4711))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(talk())


@pytest.mark.parametrize("path", ["/metrics/", "/metrics//", "//metrics", "/metrics%2F", "/Metrics"])
def test_no_other_address_tells_the_figures(path: str) -> None:
    """A proxy's rule for `/metrics` alone has to be enough."""
    answer = get(path)
    assert (answer.status_code, b"turnout_" in answer.content) == (404, False)
