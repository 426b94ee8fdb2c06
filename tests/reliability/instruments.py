"""What breaks the ground under a sender: backends that end, locks that are held, answers that are lost."""

from __future__ import annotations

import os
import random
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import psycopg

from benchmarks.harness import Sandbox
from tenants.scope import ALL_ROWS_ROLE

CHILD = "turnout-child"
"""The name under which PostgreSQL knows the connections of the processes that are broken here."""
AS_CHILD = {"PGAPPNAME": CHILD}


def connect(**options: Any) -> psycopg.Connection:
    """Connect to this test's database, apart from Django's connection; autocommit."""
    return psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, **options)


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work` in a thread until the block ends, which sets its event; what it raises is raised here."""
    ended, errors = threading.Event(), []

    def guarded() -> None:
        try:
            work(ended)
        except BaseException as error:  # noqa: BLE001 - raised below, in the test's own thread
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    if errors:
        raise errors[0]


# -- what the vendor saw -------------------------------------------------------------------------
def taken_between(vendor: Sandbox, start: float, end: float, template: str = "") -> int:
    """Count the messages that the vendor took from `start` to `end`, Unix seconds; all, or one template's."""
    return sum(
        start <= message["at"] < end and template in ("", message["template"])
        for message in vendor.accepted()
    )


def wait_until(moment: float) -> None:
    """Wait for the end of a measurement, Unix seconds."""
    time.sleep(max(0.0, moment - time.time()))


# -- backends --------------------------------------------------------------------------------------
@contextmanager
def terminating_backends(dice: random.Random, *, seconds: float) -> Iterator[list[int]]:
    """End a backend of the children every 50 to 150 ms for so many seconds; yields the process ids ended."""
    ended: list[int] = []

    def work(over: threading.Event) -> None:
        with connect() as ours:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not over.wait(dice.uniform(0.05, 0.15)):
                rows = ours.execute(
                    "SELECT pid FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = %s",
                    [CHILD],
                ).fetchall()
                for (pid,) in rows:  # not above: the planner may end a backend before it asks whose it is
                    ours.execute("SELECT pg_terminate_backend(%s)", [pid])
                    ended.append(pid)

    with meanwhile(work):
        yield ended


_WAITED_FOR = """
    SELECT EXISTS (SELECT FROM pg_locks AS ours JOIN pg_locks AS theirs USING (transactionid)
                    WHERE ours.pid = pg_backend_pid() AND ours.granted AND NOT theirs.granted)"""


@contextmanager
def crossing_locks(*, seconds: float) -> Iterator[list[bool]]:
    """Lock messages that are on their way from the highest id down, in one small transaction after the
    other, for so many seconds: against whoever locks from the lowest up that is a deadlock.

    Yields, for each transaction, whether somebody waited for it when it asked for the lower ids. PostgreSQL
    looks for a deadlock when somebody has waited for a second: then it is the other side, which waited
    first, that is told.
    """
    crossed: list[bool] = []

    def cross(ours: psycopg.Connection, over: threading.Event) -> None:
        lock = "SELECT FROM messaging_message WHERE id = ANY(%s) ORDER BY id DESC FOR NO KEY UPDATE"
        # among the latest that were called for are those that are settled next, together
        rows = ours.execute(
            "SELECT id FROM messaging_message WHERE attempt IS NOT NULL ORDER BY id DESC LIMIT 100"
        ).fetchall()
        ids = sorted(row for (row,) in rows)
        if len(ids) < 100:
            return
        with suppress(psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable):
            with ours.transaction():
                ours.execute(lock, [ids[35:]])
                patience = time.monotonic() + 0.5
                while not (waiting := _one(ours, _WAITED_FOR)) and time.monotonic() < patience:
                    if over.wait(0.01):
                        break
                crossed.append(waiting)
                ours.execute(lock, [ids[:35]])

    def work(over: threading.Event) -> None:
        with connect(options="-c lock_timeout=4s") as ours:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not over.wait(0.05):
                cross(ours, over)

    with meanwhile(work):
        yield crossed


def _one(ours: psycopg.Connection, query: str) -> Any:
    found = ours.execute(query).fetchone()
    assert found
    return found[0]


@contextmanager
def row_locked(table: str, row: int) -> Iterator[None]:
    """Hold one row `FOR UPDATE` while the block runs."""
    with connect() as ours, ours.transaction():
        ours.execute(f"SET LOCAL ROLE {ALL_ROWS_ROLE}")  # or row-level security shows no row to lock
        assert ours.execute(f"SELECT FROM {table} WHERE id = %s FOR UPDATE", [row]).rowcount == 1
        yield


# -- answers that are lost -------------------------------------------------------------------------
@dataclass(slots=True)
class Commit:
    """One COMMIT that passed: its number, and whether its transaction claimed messages."""

    number: int
    claims: bool


@dataclass(slots=True)
class LossyProxy:
    """Stands between a process and PostgreSQL, and loses the answers to chosen commits.

    The COMMIT reaches the server and takes effect; then the connection breaks before the process hears of
    it. `database_url` is what the process is given.
    """

    lose: Callable[[Commit], bool]
    database_url: str = ""
    commits: int = 0
    lost: list[Commit] = field(default_factory=list)

    def commit(self, *, claims: bool) -> bool:
        """Note a commit, and say whether its answer is lost."""
        self.commits += 1
        commit = Commit(self.commits, claims)
        if not self.lose(commit):
            return False
        self.lost.append(commit)
        return True


@contextmanager
def losing_answers(lose: Callable[[Commit], bool]) -> Iterator[LossyProxy]:
    """Serve a `LossyProxy` on a Unix socket of its own until the block ends."""
    given = urlsplit(os.environ["DATABASE_URL"])
    query = parse_qs(given.query)
    port = query["port"][0]
    server = f"{query['host'][0]}/.s.PGSQL.{port}"
    proxy = LossyProxy(lose)
    with ExitStack() as stack:
        # pytest's own folders have longer names than a Unix socket may
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lossy"))
        proxy.database_url = urlunsplit(given._replace(query=f"host={folder}&port={port}"))
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(Path(folder) / f".s.PGSQL.{port}"))
        listener.listen(16)
        listener.settimeout(0.1)

        def work(over: threading.Event) -> None:
            while not over.is_set():
                with suppress(TimeoutError):
                    client, _ = listener.accept()
                    client.settimeout(None)
                    behind = socket.socket(socket.AF_UNIX)
                    behind.connect(server)
                    _Link(proxy, client, behind).start()

        stack.enter_context(meanwhile(work))
        yield proxy


class _Link:
    """One connection through the proxy: a thread each way."""

    def __init__(self, proxy: LossyProxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.statements: dict[bytes, bytes] = {}  # name -> SQL of what was prepared on this connection
        self.claims = False  # of the transaction under way
        self.losing = threading.Event()

    def start(self) -> None:
        for way in (self.forth, self.back):
            threading.Thread(target=way, daemon=True).start()

    def forth(self) -> None:
        with suppress(OSError), self.client.makefile("rb") as asked:
            length = asked.read(4)  # the first message has no kind
            self.server.sendall(length + asked.read(struct.unpack("!i", length)[0] - 4))
            while head := asked.read(5):
                body = asked.read(struct.unpack("!i", head[1:])[0] - 4)
                if self.commits(head[:1], body):
                    self.losing.set()
                self.server.sendall(head + body)
        self.close()

    def commits(self, kind: bytes, body: bytes) -> bool:
        """Follow what the process asks; say whether this ends a transaction whose answer is to be lost."""
        if kind == b"P":
            name, sql = body.split(b"\0", 2)[:2]
            self.statements[name] = sql
        elif kind == b"B":
            sql = self.statements.get(body.split(b"\0", 2)[1], b"")
            self.claims |= b"SET state = 'claimed'" in sql
        elif kind == b"Q" and body.startswith(b"COMMIT"):
            claims, self.claims = self.claims, False
            return self.proxy.commit(claims=claims)
        elif kind == b"Q" and body.startswith(b"ROLLBACK"):
            self.claims = False
        return False

    def back(self) -> None:
        with suppress(OSError):
            while data := self.server.recv(65_536):
                if self.losing.is_set():  # the server has answered, so the commit stands
                    break
                self.client.sendall(data)
        self.close()

    def close(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
