"""Real processes on a real database: what they are given, and who takes the vendor's webhooks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import quote

import pytest
from django.db import connection

from benchmarks.harness import go_first
from engine.inbox.receipts import store

LEASE_SECONDS = 2.0
SOAK = bool(os.environ.get("SOAK"))
"""Run the long ones whole: `SOAK=1 make test ARGS=tests/reliability`."""


@pytest.fixture(autouse=True)
def shared_database(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let children work in this test's database, with leases short enough to wait for."""
    of = connection.settings_dict
    password = f":{quote(of['PASSWORD'], safe='')}" if of["PASSWORD"] else ""
    host, port = quote(of["HOST"]), of["PORT"] or "5432"
    monkeypatch.setenv(
        "DATABASE_URL", f"postgres://{of['USER']}{password}@/{of['NAME']}?host={host}&port={port}"
    )
    monkeypatch.setenv("LEASE_SECONDS", str(LEASE_SECONDS))


class Inbox:
    """Takes webhooks as the hot intake does: stored, then answered."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.url = ""


@contextmanager
def _serve() -> Iterator[Inbox]:
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            inbox.bodies.append(body)
            store("whatsapp", body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()
            self.close_connection = True  # one thread: let the next one in

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.request_queue_size = 64

    def work() -> None:
        server.serve_forever(poll_interval=0.05)
        connection.close()  # this thread's own

    thread = threading.Thread(target=work)
    thread.start()
    inbox.url = f"http://127.0.0.1:{server.server_address[1]}/"
    try:
        yield inbox
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    with _serve() as served:
        yield served


@pytest.fixture(scope="module", autouse=True)
def instruments_first() -> Iterator[None]:
    """Put these tests' processes before others: the sandbox's clock is what rates are measured by.

    For a module's time only: what this worker does afterwards waits like everybody's.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    went_first = go_first()
    yield
    if went_first:
        os.setpriority(os.PRIO_PROCESS, 0, before)
