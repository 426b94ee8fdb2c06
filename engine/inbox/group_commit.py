"""Group commit: many callers, one writer, and nobody is answered before the row is on disk.

A caller's row waits in the process; the writer takes up to 500 of them, or what has come within 5 ms,
and writes them in one statement and one commit. Beside Django, on a connection of its own: the event
loop never waits for the ORM.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Final, LiteralString

import psycopg
import structlog
from django.db import connection
from psycopg.conninfo import make_conninfo

log = structlog.stdlib.get_logger("turnout.intake")

# Columns as arrays, so that the statement is the same whatever the number of rows.
STORE_RECEIPTS: Final = """
INSERT INTO engine_receipt (provider, tenant_id, body, size, received_at, due_at, attempts, error)
SELECT provider, tenant_id, body, octet_length(body), now(), now(), 0, ''
FROM unnest(%b::text[], %t::bigint[], %b::bytea[]) AS come(provider, tenant_id, body)
"""
"""Stores rows of (provider, tenant id or None for the platform's own app, body)."""

Row = tuple[Any, ...]


class IntakeFull(Exception):
    """More is waiting than the database takes: come back in a second."""


class IntakeDown(Exception):
    """The database does not answer: nothing was stored, come back later."""


class GroupCommit:
    """Write rows of one kind for callers of one event loop. `put` returns once the row is committed.

    `statement` takes one array per column; a row that it cannot take takes its batch with it, so
    check rows before. A row may be written twice when the connection breaks
    between the commit and its answer; what reads the rows must not mind, as it must not mind a vendor
    that posts twice.
    """

    def __init__(
        self,
        statement: LiteralString,
        *,
        conninfo: str | None = None,
        batch: int = 500,
        wait: float = 0.005,
        rows: int = 10_000,
        size: int = 64 * 1024 * 1024,
        after_commit: Callable[[int], None] | None = None,
    ) -> None:
        self.statement = statement
        self.conninfo = conninfo if conninfo is not None else database_conninfo()
        self.batch = batch
        self.wait = wait
        self.rows = rows
        self.size = size
        self.after_commit = after_commit
        self.waiting = 0  # rows that are not answered yet
        self.waiting_size = 0
        self.commits = 0
        self.written = 0
        self._queue: asyncio.Queue[tuple[Row, int, asyncio.Future[None]]] = asyncio.Queue()
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._stopping = False
        self._drained = asyncio.Event()

    def start(self) -> None:
        self._writer = asyncio.create_task(self._write_for_ever(), name="group commit")

    async def stop(self, *, seconds: float = 10) -> None:
        """Take nothing more, write what waits, close. What cannot be written in time is refused."""
        self._stopping = True
        if self.waiting:
            self._drained.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._drained.wait()
        if self._writer:
            self._writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._writer
        while not self._queue.empty():
            self._refuse([self._queue.get_nowait()], IntakeDown())
        await self._disconnect()

    async def put(self, row: Row, *, size: int) -> None:
        """Store one row; return when it is committed. Raises IntakeFull or IntakeDown: nothing stored.

        A caller that goes away meanwhile does not take its row with it.
        """
        if self._stopping or self.waiting >= self.rows or self.waiting_size + size > self.size:
            raise IntakeFull
        answer = asyncio.get_running_loop().create_future()
        self.waiting += 1
        self.waiting_size += size
        self._queue.put_nowait((row, size, answer))
        await answer

    async def _write_for_ever(self) -> None:
        while True:
            taken = [await self._queue.get()]
            try:
                if self._queue.qsize() < self.batch - 1:
                    await asyncio.sleep(self.wait)
                while len(taken) < self.batch and not self._queue.empty():
                    taken.append(self._queue.get_nowait())
                await self._write([row for row, _, _ in taken])
            except (psycopg.Error, OSError, TimeoutError) as error:
                log.error("intake cannot write", rows=len(taken), error=str(error).strip())  # noqa: TRY400 - the words suffice
                self._refuse(taken, IntakeDown())
            except asyncio.CancelledError:
                self._refuse(taken, IntakeDown())
                raise
            else:
                self.commits += 1
                self.written += len(taken)
                for _, size, answer in taken:
                    self._answered(size)
                    if not answer.done():
                        answer.set_result(None)
                if self.after_commit:
                    self.after_commit(len(taken))

    async def _write(self, rows: Sequence[Row]) -> None:
        """Write in one transaction, twice at most: a connection that had gone stale is made anew once."""
        columns = [list(column) for column in zip(*rows, strict=True)]
        stale = self._connection is not None
        async with asyncio.timeout(10):
            try:
                await self._execute(columns)
            except (psycopg.OperationalError, psycopg.InterfaceError):
                await self._disconnect()
                if not stale:
                    raise
                await self._execute(columns)

    async def _execute(self, columns: list[list[Any]]) -> None:
        if self._connection is None:
            self._connection = await psycopg.AsyncConnection.connect(
                self.conninfo,
                autocommit=True,
                connect_timeout=5,
                application_name="turnout intake",
                options="-c statement_timeout=8000",
            )
        await self._connection.execute(self.statement, columns)

    async def _disconnect(self) -> None:
        if self._connection is not None:
            gone, self._connection = self._connection, None
            with contextlib.suppress(psycopg.Error, OSError):
                await gone.close()

    def _refuse(
        self, taken: Sequence[tuple[Row, int, asyncio.Future[None]]], reason: IntakeDown | IntakeFull
    ) -> None:
        for _, size, answer in taken:
            self._answered(size)
            if not answer.done():
                answer.set_exception(reason)

    def _answered(self, size: int) -> None:
        self.waiting -= 1
        self.waiting_size -= size
        if not self.waiting:
            self._drained.set()


class Nudge:
    """Call a blocking function in a thread soon after it was asked for, and at most once in `every` seconds.

    What is asked for meanwhile is not lost: one more call follows. A call that fails is logged; the
    schedule comes round each minute anyway.
    """

    def __init__(self, call: Callable[[], object], *, every: float = 1.0) -> None:
        self.call = call
        self.every = every
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="nudge")

    def ask(self, _rows: int = 0) -> None:
        self._asked.set()

    async def stop(self) -> None:
        """Make the call that is still asked for, then end."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._asked.is_set():
            await asyncio.to_thread(self._call)

    async def _run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await asyncio.to_thread(self._call)
            except asyncio.CancelledError:
                self._asked.set()  # it may not have begun; once more does no harm
                raise
            await asyncio.sleep(self.every)

    def _call(self) -> None:
        try:
            self.call()
        except Exception:  # whatever it is, the next minute's tick does the work
            log.exception("intake cannot ask for a tick")
        finally:
            # Threads of the default pool come and go: a connection left behind would never be closed.
            connection.close()


def database_conninfo() -> str:
    """Return how Django reaches its default database, for a connection of our own."""
    known = {option.keyword.decode() for option in psycopg.pq.Conninfo.get_defaults()}
    given = connection.get_connection_params().items()
    return make_conninfo(
        **{name: value for name, value in given if name in known and value not in (None, "")}
    )
