"""Group commit: many callers, one writer, and nobody is answered before the row is on disk.

A caller's row waits in the process; the writer takes up to 500 of them, or what has come within 5 ms,
and writes them in one statement and one commit. Beside Django, on a connection of its own: the event
loop never waits for the ORM.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
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

STATEMENT_SECONDS: Final = 8
TRIES: Final = 3  # of a statement that met a deadlock


class Kind(StrEnum):
    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    REFUSED = "refused"


@dataclass(slots=True, frozen=True)
class Verdict:
    """What became of one row: it is on disk, it was there before, or the database refused it (`why`)."""

    kind: Kind
    why: str = ""


ACCEPTED: Final = Verdict(Kind.ACCEPTED)
DUPLICATE: Final = Verdict(Kind.DUPLICATE)


class IntakeFull(Exception):
    """More is waiting than the database takes: come back in a second."""


class IntakeDown(Exception):
    """The database does not answer: come back later.

    Nothing of a single row is stored then; of many some may be, and are duplicates the next time.
    """


class RowRefused(Exception):
    """The database refuses this row, and would again; the message says why."""


@dataclass(slots=True, eq=False)
class _Asked:
    """The rows of one caller, and what became of each so far."""

    rows: Sequence[Row]
    size: int
    answer: asyncio.Future[list[Verdict]]
    verdicts: list[Verdict | None]
    left: int
    down: bool = False


_Waiting = tuple[_Asked, int]  # the number of a row among its caller's


class GroupCommit:
    """Write rows of one kind for callers of one event loop. `put` returns once the row is committed.

    `statement` takes one array per column. Rows are written in the order in which they came. With `key`,
    the positions of the columns that tell a row from another, the statement says `ON CONFLICT DO NOTHING
    RETURNING` those columns, as given in: a row whose key does not come back is a duplicate. Without it
    every row that is committed is accepted. A row that the database refuses is refused alone; the others of
    its batch go in. `role` is switched to after connecting, where a table's policy asks for it.

    A row may be written twice when the connection breaks between the commit and its answer (with a `key`:
    be told to be a duplicate of itself); what reads the rows must not mind, as it must not mind a vendor
    that posts twice. At most `rows` rows or `size` bytes wait.
    """

    def __init__(
        self,
        statement: LiteralString,
        *,
        key: tuple[int, ...] = (),
        role: str | None = None,
        conninfo: str | None = None,
        batch: int = 500,
        wait: float = 0.005,
        rows: int = 10_000,
        size: int = 64 * 1024 * 1024,
        after_commit: Callable[[int], None] | None = None,
    ) -> None:
        self.statement = statement
        self.key = key
        self.role = role
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
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
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
            self._settle([self._queue.get_nowait()], None)
        await self._disconnect()

    async def put(self, row: Row, *, size: int) -> Verdict:
        """Store one row; return when it is committed, ACCEPTED or DUPLICATE.

        Raises IntakeFull or IntakeDown (nothing stored, come again) or RowRefused. A caller that goes away
        meanwhile does not take its row with it.
        """
        (verdict,) = await self.put_many([row], size=size)
        if verdict.kind is Kind.REFUSED:
            raise RowRefused(verdict.why)
        return verdict

    async def put_many(self, rows: Sequence[Row], *, size: int) -> list[Verdict]:
        """Store rows of `size` bytes together; return what became of each, once all are committed.

        Raises IntakeFull when they do not all find room, and IntakeDown.
        """
        if self._stopping or self.waiting + len(rows) > self.rows or self.waiting_size + size > self.size:
            raise IntakeFull
        if not rows:
            return []
        answer: asyncio.Future[list[Verdict]] = asyncio.get_running_loop().create_future()
        asked = _Asked(rows, size, answer, [None] * len(rows), len(rows))
        self.waiting += len(rows)
        self.waiting_size += size
        for number in range(len(rows)):
            self._queue.put_nowait((asked, number))
        return await answer

    async def _write_for_ever(self) -> None:
        while True:
            taken = [await self._queue.get()]
            try:
                if self._queue.qsize() < self.batch - 1:
                    await asyncio.sleep(self.wait)
                while len(taken) < self.batch and not self._queue.empty():
                    taken.append(self._queue.get_nowait())
            except asyncio.CancelledError:
                self._settle(taken, None)
                raise
            accepted = await self._write(taken)
            if accepted and self.after_commit:
                self.after_commit(accepted)

    async def _write(self, taken: Sequence[_Waiting]) -> int:
        """Write a batch, in halves where the database refuses it, and answer each row.

        Returns how many were accepted. A connection that had gone stale is made anew once; what cannot be
        written then is answered IntakeDown, what was written before stays so.
        """
        accepted, may_reconnect = 0, self._connection is not None
        parts, part = [taken], taken[:0]
        try:
            while parts:
                part = parts.pop()
                try:
                    verdicts = await self._insert([asked.rows[number] for asked, number in part])
                except (psycopg.Error, ValueError, OverflowError) as error:
                    if not _blames_a_row(error):
                        if not may_reconnect or not isinstance(error, _CONNECTION_LOST):
                            raise
                        may_reconnect = False
                        await self._disconnect()
                        parts.append(part)
                    elif len(part) > 1:
                        half = len(part) // 2
                        parts += [part[half:], part[:half]]  # the first half is written first
                    else:
                        why = str(error).strip().partition("\n")[0]
                        log.warning("row refused", error=type(error).__name__)
                        self._settle(part, [Verdict(Kind.REFUSED, why)])
                    continue
                self.commits += 1
                new = sum(verdict is ACCEPTED for verdict in verdicts)
                self.written += new
                accepted += new
                self._settle(part, verdicts)
                part = []
        except (psycopg.Error, OSError, TimeoutError) as error:
            undone = [*part, *(one for left in reversed(parts) for one in left)]
            log.error("intake cannot write", rows=len(undone), error=str(error).strip())  # noqa: TRY400 - the words suffice
            await self._disconnect()
            self._settle(undone, None)
        except asyncio.CancelledError:
            self._settle([*part, *(one for left in parts for one in left)], None)
            raise
        return accepted

    async def _insert(self, rows: Sequence[Row]) -> list[Verdict]:
        """Write rows in one commit and say of each whether it is new. A deadlock is tried again."""
        columns = [list(column) for column in zip(*rows, strict=True)]
        for tried in range(1, TRIES + 1):
            try:
                async with asyncio.timeout(STATEMENT_SECONDS + 2):
                    cursor = await (await self._connected()).execute(self.statement, columns)
                    came_back = await cursor.fetchall() if self.key else []
                break
            except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure):
                if tried == TRIES:
                    raise
        if not self.key:
            return [ACCEPTED] * len(rows)
        new = Counter(came_back)
        verdicts = []
        for row in rows:  # of two with one key the first is the new one
            key = tuple(row[position] for position in self.key)
            verdicts.append(ACCEPTED if new[key] > 0 else DUPLICATE)
            new[key] -= 1
        return verdicts

    async def _connected(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None:
            made = await psycopg.AsyncConnection.connect(
                self.conninfo,
                autocommit=True,
                connect_timeout=5,
                application_name="turnout intake",
                options=f"-c statement_timeout={STATEMENT_SECONDS * 1000}",
            )
            if self.role is not None:
                await made.execute("SELECT set_config('role', %s, false)", [self.role])
            self._connection = made
        return self._connection

    async def _disconnect(self) -> None:
        if self._connection is not None:
            gone, self._connection = self._connection, None
            with contextlib.suppress(psycopg.Error, OSError):
                await gone.close()

    def _settle(self, taken: Sequence[_Waiting], verdicts: Sequence[Verdict] | None) -> None:
        """Note what became of rows (None: they are not written), and answer the callers that have all."""
        for place, (asked, number) in enumerate(taken):
            asked.left -= 1
            if verdicts is None:
                asked.down = True
            else:
                asked.verdicts[number] = verdicts[place]
            if asked.left:
                continue
            self.waiting -= len(asked.rows)
            self.waiting_size -= asked.size
            if not asked.answer.done():
                if asked.down:
                    asked.answer.set_exception(IntakeDown())
                else:
                    asked.answer.set_result([verdict for verdict in asked.verdicts if verdict is not None])
        if not self.waiting:
            self._drained.set()


_CONNECTION_LOST: Final = (psycopg.OperationalError, psycopg.InterfaceError)
_ROW_AT_FAULT: Final = ("22", "23", "44", "P0001")  # data, integrity, a view's check, what a trigger raises


def _blames_a_row(error: Exception) -> bool:
    """Is it what a row holds? Text with a NUL and numbers too large do not even leave this process."""
    state: str | None = getattr(error, "sqlstate", None)
    if state is None:
        return isinstance(error, psycopg.DataError | ValueError | OverflowError)
    return state.startswith(_ROW_AT_FAULT) or (state == "42501" and "row-level security" in str(error))


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
