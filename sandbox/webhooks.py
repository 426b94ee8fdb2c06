"""Post signed status updates to the callback URL, until it says 2xx."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import hmac
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import orjson
from pyreqwest.client import Client, ClientBuilder
from pyreqwest.exceptions import PyreqwestError

from sandbox.config import SandboxConfig

RETRY_MOST = 5.0

# due, tie-breaker, number, the update as Meta words it, whom to tell once it was acknowledged
Queued = tuple[float, int, str, dict[str, Any], "asyncio.Future[None] | None"]


class Poster:
    """Keeps updates until they are due, gathers them into POSTs, and repeats a POST until it is acknowledged.

    Works in slices of `webhook_interval`, so that the cost per update stays far below a send's.
    """

    def __init__(self, config: Callable[[], SandboxConfig]) -> None:
        self._config = config
        self._queue: list[Queued] = []
        self._serial = 0
        self._posts: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._ticks_at = 0.0
        self._client: Client | None = None
        self.counts: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()

    def add(
        self, number: str, update: dict[str, Any], after: float, done: asyncio.Future[None] | None = None
    ) -> None:
        """Queue one update of `number`, due in `after` seconds. `done` is set once it is acknowledged."""
        self._serial += 1
        self.counts["queued"] += 1
        heapq.heappush(self._queue, (time.monotonic() + after, self._serial, number, update, done))
        self._wake(0.0 if done else self._config().webhook_interval)

    def post(self, change: dict[str, Any]) -> None:
        """Post one change of any kind at once, e.g. a paused template."""
        self.counts["queued"] += 1
        self._start(self._envelope([change]), 1, ())

    def reset(self) -> None:
        """Forget what is queued and under way."""
        for task in self._posts:
            task.cancel()
        self._queue.clear()
        self.counts.clear()
        self.statuses.clear()

    async def close(self) -> None:
        if self._ticking:
            self._ticking.cancel()
        self.reset()
        await asyncio.gather(*self._posts, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    def as_json(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "queued": counts["queued"],
            "acknowledged": counts["acknowledged"],
            "pending": counts["queued"] - counts["acknowledged"],
            "posts": counts["posts"],
            "refused": counts["refused"],
            "unreachable": counts["unreachable"],
            "by_status": dict(self.statuses),
        }

    def _wake(self, after: float) -> None:
        """Tick after that long, or sooner when a tick is already due sooner."""
        loop = asyncio.get_running_loop()
        if self._ticking is not None:
            if self._ticks_at <= loop.time() + after:
                return
            self._ticking.cancel()
        self._ticks_at = loop.time() + after  # uvloop's handle of an immediate call does not know
        self._ticking = loop.call_later(after, self._tick)

    def _tick(self) -> None:
        self._ticking = None
        config, now = self._config(), time.monotonic()
        queue = self._queue
        while queue and queue[0][0] <= now and len(self._posts) < config.webhook_posts:
            batch: list[Queued] = []
            while queue and queue[0][0] <= now and len(batch) < config.webhook_batch:
                batch.append(heapq.heappop(queue))
            if config.webhook_shuffle:
                random.shuffle(batch)
            by_number: dict[str, list[dict[str, Any]]] = {}
            for _, _, number, update, _ in batch:
                by_number.setdefault(number, []).append(update)
                self.statuses[update["status"]] += 1
            changes = [_statuses(number, updates) for number, updates in by_number.items()]
            self._start(self._envelope(changes), len(batch), [done for *_, done in batch if done])
        if queue:
            self._wake(config.webhook_interval)

    def _envelope(self, changes: list[dict[str, Any]]) -> bytes:
        entry = {"id": self._config().waba_id, "time": int(time.time()), "changes": changes}
        return orjson.dumps({"object": "whatsapp_business_account", "entry": [entry]})

    def _start(self, body: bytes, count: int, done: Iterable[asyncio.Future[None]]) -> None:
        task = asyncio.get_running_loop().create_task(self._deliver(body, count, list(done)))
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)

    async def _deliver(self, body: bytes, count: int, done: list[asyncio.Future[None]]) -> None:
        if self._client is None:
            builder = ClientBuilder().no_proxy().follow_redirects(False).timeout(timedelta(seconds=20))
            self._client = builder.build()
        wait = self._config().webhook_retry
        while True:
            config = self._config()
            if not config.webhook_url:  # switched off meanwhile
                return
            headers = {"content-type": "application/json"}
            if config.webhook_secret:
                digest = hmac.new(config.webhook_secret.encode(), body, hashlib.sha256).hexdigest()
                headers["x-hub-signature-256"] = f"sha256={digest}"
            self.counts["posts"] += 1
            try:
                request = self._client.post(config.webhook_url).headers(headers).body_bytes(body).build()
                answer = await request.send()
                if 200 <= answer.status < 300:
                    break
                self.counts["refused"] += 1
            except PyreqwestError:
                self.counts["unreachable"] += 1
            await asyncio.sleep(wait)
            wait = min(wait * 2, RETRY_MOST)
        self.counts["acknowledged"] += count
        for waiting in done:
            if not waiting.done():
                waiting.set_result(None)


def _statuses(number: str, updates: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "field": "messages",
        "value": {
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": number, "phone_number_id": number},
            "statuses": updates,
        },
    }
