"""Everything behind one port: the hot paths as bare ASGI, the rest of it Django under WSGI.

Django's own ASGI handler would cost a thread hop per middleware and request, ten times what WSGI costs
(docs/decisions). The hot paths never touch it: they verify, store and answer on the event loop.
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import structlog
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
django = get_wsgi_application()

from django.conf import settings  # noqa: E402 - Django is set up first
from django.contrib.staticfiles.handlers import StaticFilesHandler  # noqa: E402
from django.core.checks import ERROR, run_checks  # noqa: E402

from config import checks, health, metrics  # noqa: E402
from config.django_threads import DjangoThreads  # noqa: E402
from config.hot import Answer, Paths, Receive, Scope, Send, problem, send_answer  # noqa: E402
from config.localpg import DatabaseUnavailable, ensure_database  # noqa: E402
from config.webhooks import PREFIX, Webhooks  # noqa: E402
from engine.clock.schedules import enqueue  # noqa: E402
from engine.inbox.group_commit import STORE_RECEIPTS, GroupCommit, Nudge  # noqa: E402

log = structlog.stdlib.get_logger("turnout.web")

LIVE_SECONDS: Final = 3.0  # less than whoever asks `/health/live` waits


class Application:
    """One per process of the web server."""

    def __init__(self, *, threads: int = 16) -> None:
        # With DEBUG the static files come from the apps; else from STATIC_ROOT, served by the web server.
        self.django = DjangoThreads(StaticFilesHandler(django) if settings.DEBUG else django, threads=threads)
        self.slow = ThreadPoolExecutor(2, thread_name_prefix="health")
        self.paths = Paths()
        for slash in ("", "/"):
            self.paths.add(f"/health/live{slash}", self.live)
            self.paths.add(f"/health/ready{slash}", self.ready)
        self.paths.add("/metrics", self.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            answer = await self.paths.answer(scope, receive)
            if answer is not None:
                await send_answer(send, answer)
            else:
                await self.django(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self.live_through(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def live_through(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self.start()
        except (DatabaseUnavailable, RefusedToStart) as error:
            log.critical("not started", reason=str(error))
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.receipts.stop()
        await self.nudge.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def start(self) -> None:
        refused = [found for found in run_checks(tags=[checks.TAG]) if found.is_serious(ERROR)]
        if refused:
            raise RefusedToStart("; ".join(f"{found.id}: {found.msg}" for found in refused))
        ensure_database()
        self.nudge = Nudge(ask_for_events)
        self.nudge.start()
        self.receipts = GroupCommit(STORE_RECEIPTS, after_commit=self.nudge.ask)
        self.receipts.start()
        self.paths.add_prefix(PREFIX, Webhooks(self.receipts))

    async def live(self, _scope: Scope, _receive: Receive) -> Answer:
        return health.live(await self.django.answers(health.live_request(), seconds=LIVE_SECONDS))

    async def ready(self, _scope: Scope, _receive: Receive) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self.slow, health.ready)

    async def metrics(self, scope: Scope, _receive: Receive) -> Answer:
        if not metrics.may_ask(scope):
            return problem(403, "Ask from this machine, or with METRICS_TOKEN as bearer token")
        return await asyncio.get_running_loop().run_in_executor(self.slow, metrics.scrape)


def ask_for_events() -> None:
    enqueue("events")


class RefusedToStart(Exception):
    """The settings will not do; the message names the checks that say so."""


application = Application()
