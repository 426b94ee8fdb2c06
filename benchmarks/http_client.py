"""What the bulk client costs a message, against httpx in the same run: `python -m benchmarks.http_client`.

Builds, sends and reads template messages to a sandbox in another process, with 100 in flight. The figure
is messages per second of this process's CPU; nothing is claimed or settled, that is S2's part.
"""

from __future__ import annotations

import asyncio
import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from statistics import median

import httpx
import uvloop

from providers.base import Call, Reply, Response
from providers.http import Http
from providers.whatsapp import read_send, send_template

IN_FLIGHT = 100
BOUND = 5_000
COMPONENTS = [{"type": "body", "parameters": [{"type": "text", "text": "Ann"}]}]
Send = Callable[[Call], Awaitable[Response]]


@contextmanager
def sandbox(latency: str) -> Iterator[str]:
    """Start a sandbox without a limit, in a process of its own."""
    command = [sys.executable, "-m", "sandbox", "--port", "0", "--rate", "0", "--latency", latency]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            yield process.stdout.readline().split()[1].removesuffix("/_sandbox/")
        finally:
            process.terminate()


async def measure(send: Send, url: str, count: int) -> float:
    """Send `count` messages; return how many a second of CPU is good for."""
    numbers = iter(range(count))
    outcomes: Counter[str] = Counter()

    async def caller() -> None:
        for number in numbers:
            call = send_template(
                base_url=url,
                version="v25.0",
                phone_number_id=str(1_000 + number % 20),
                token="benchmark",
                to=f"+1555{number:07}",
                template="offer",
                language="en",
                components=COMPONENTS,
                attempt=f"{number:036}",
            )
            outcomes[type(read_send(await send(call))).__name__] += 1

    before = resource.getrusage(resource.RUSAGE_SELF)
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert outcomes == {"Done": count}, outcomes
    return count / (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


async def with_ours(url: str, count: int) -> float:
    async with Http() as http:
        return await measure(http.send, url, count)


async def with_httpx(url: str, count: int) -> float:
    limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT, keepalive_expiry=60)
    async with httpx.AsyncClient(limits=limits, timeout=30, trust_env=False) as client:

        async def send(call: Call) -> Response:
            answer = await client.request(
                call.method, call.url, headers=dict(call.headers), content=call.body
            )
            return Reply(answer.status_code, dict(answer.headers), answer.content)

        return await measure(send, url, count)


def main() -> int:
    """Print one JSON line; 1 when the bound was missed."""
    ours, theirs = {}, {}
    for latency in ("0,0", "100,0"):
        with sandbox(latency) as url:
            uvloop.run(with_ours(url, 2_000))  # warm up
            rounds = [
                (uvloop.run(with_ours(url, 20_000)), uvloop.run(with_httpx(url, 300))) for _ in range(3)
            ]
        ours[latency] = median(figure for figure, _ in rounds)
        theirs[latency] = median(figure for _, figure in rounds)
    figure = min(ours.values())
    print(
        json.dumps(
            {
                "id": "http_client",
                "figure": round(figure),
                "bound": BOUND,
                "unit": "messages per CPU-second, build and read included",
                "no_delay": {"ours": round(ours["0,0"]), "httpx": round(theirs["0,0"])},
                "100_ms": {"ours": round(ours["100,0"]), "httpx": round(theirs["100,0"])},
            }
        )
    )
    return 0 if figure >= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
