"""One event loop, one HTTP client and one database thread per process, kept between runs.

Made on first use, never before a fork: none of the three survives one. The loop runs in a thread of its
own, so that django-q2's timeout, a signal in the main thread, ends a run at once.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from random import uniform
from typing import Any, ParamSpec, TypeVar

import structlog
import uvloop
from django.db import connection

from engine.store.errors import DatabaseAway, RowsLocked, Trouble, trouble
from providers.http import Http
from tenants.scope import all_tenants

T = TypeVar("T")
P = ParamSpec("P")

logger = structlog.get_logger(__name__)
AGAIN = 6
"""How often a transaction that ends in a deadlock is tried."""


class DatabaseThread:
    """The one thread of a runner that touches the database; each call is one transaction over all tenants."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store")

    async def __call__(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` there, in this task's context, so that its log lines name the run as ours do.

        A transaction that ends in a deadlock is done again, so `work` must not change what it is given.
        Raises DatabaseAway when the connection is lost (what was written, nobody knows; the next call
        connects anew) and RowsLocked when somebody holds a row for too long.
        """

        def in_transaction() -> T:
            for attempt in range(AGAIN):
                try:
                    connection.close_if_unusable_or_obsolete()
                    with all_tenants(atomic=True):
                        return work(*args, **kwargs)
                except Exception as error:
                    kind = trouble(error)
                    if kind is Trouble.AGAIN and attempt < AGAIN - 1:
                        logger.info("transaction done again", why=str(error).strip().partition("\n")[0])
                        time.sleep(uniform(0.0, 0.02) * (attempt + 1))
                        continue
                    if kind in (Trouble.AWAY, Trouble.AGAIN):
                        connection.close()
                        raise DatabaseAway(str(error).strip()) from error
                    if kind is Trouble.LOCKED:
                        raise RowsLocked(str(error).strip()) from error
                    raise
            raise AssertionError

        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, copy_context().run, in_transaction)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._executor, lambda: connection.close())
        self._executor.shutdown()


class Runtime:
    """This process's loop, client and database thread."""

    def __init__(self) -> None:
        self._pid = 0
        self._loop: asyncio.AbstractEventLoop
        self._thread: threading.Thread
        self.http: Http
        self.database: DatabaseThread

    def start(self, work: Callable[[Http, DatabaseThread], Coroutine[Any, Any, T]]) -> Future[T]:
        """Begin `work` in the loop, from any thread."""
        if self._pid != os.getpid():
            self._start()
        return asyncio.run_coroutine_threadsafe(work(self.http, self.database), self._loop)

    def close(self) -> None:
        """End the loop, the client and the database thread; the next use makes new ones."""
        if self._pid != os.getpid():
            return

        async def end(http: Http, database: DatabaseThread) -> None:
            await http.aclose()
            await database.close()

        self.start(end).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._pid = 0

    def _start(self) -> None:
        _allow_many_connections()
        gc.set_threshold(100_000, 20, 100)  # each call allocates a little, and next to nothing stays
        gc.freeze()  # what is loaded by now stays: the collector need not look at it again
        self._loop = uvloop.new_event_loop()
        self.http = Http()
        self.database = DatabaseThread()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runtime", daemon=True)
        self._thread.start()
        self._pid = os.getpid()


def _allow_many_connections() -> None:
    """Raise the limit of open files to the hard one: each call in flight is a socket."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


runtime = Runtime()
