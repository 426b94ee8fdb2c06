"""Exports whose clients go away, over real sockets before the real web server: nobody else waits for them."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from django.db import connection

from config.localpg import PROJECT
from config.processes import web
from messaging.actions import launch_broadcast
from tenants.actions import create_tenant
from tenants.models import Tenant
from tenants.scope import all_tenants
from tests.config.processes import environment, until
from tests.messaging.build import make_broadcast, make_contacts

EXPORT = "/api/v1/messages/export/"
MESSAGES = 40_000
"""Enough that 16 exports of them are a minute's work, and that none fits in a socket's buffers."""

pytestmark = pytest.mark.django_db(transaction=True)


class Web:
    """The web server as `run` starts it, on the test's database."""

    def __init__(self, port: int, log: Path) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        of = connection.settings_dict
        database = f"postgres://{of['USER']}@/{of['NAME']}?host={of['HOST']}&port={of['PORT'] or 5432}"
        child = web("127.0.0.1", port)
        with log.open("w") as file:
            self.process = subprocess.Popen(
                child.command,
                cwd=PROJECT,
                env=environment(DATABASE_URL=database),
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def up(self) -> bool:
        assert self.process.poll() is None
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


@pytest.fixture
def server(port: int, tmp_path: Path, settings: Any) -> Iterator[Web]:
    settings.DEBUG = True  # as the server's own will be: static files come from the apps
    running = Web(port, tmp_path / "web.log")
    until(running.up, what="the web server answers")
    yield running
    running.process.terminate()
    try:
        running.process.wait(20)
    finally:
        running.process.kill()


@pytest.fixture
def acme() -> tuple[Tenant, str]:
    """A tenant with many messages, and a key of his."""
    with all_tenants():
        tenant, key = create_tenant(name="Acme")
        make_contacts(tenant, MESSAGES)
        launch_broadcast(broadcast_id=make_broadcast(tenant).pk)
    return tenant, key


@pytest.fixture
def globex() -> str:
    with all_tenants():
        return create_tenant(name="Globex")[1]


Begin = Callable[[str], tuple[socket.socket, bytes]]


@pytest.fixture
def begin(server: Web) -> Iterator[Begin]:
    """Ask for an export with a key and read no more than its beginning: gives the open socket and that."""
    opened: list[socket.socket] = []

    def begin_export(key: str) -> tuple[socket.socket, bytes]:
        asking = socket.socket()
        opened.append(asking)
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asking.settimeout(20)
        asking.connect(("127.0.0.1", server.port))
        lines = [f"GET {EXPORT} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", f"Authorization: Bearer {key}"]
        asking.sendall("\r\n".join([*lines, "", ""]).encode())
        return asking, asking.recv(1000)

    yield begin_export
    for asking in opened:
        abort(asking)


def abort(asking: socket.socket) -> None:
    """Close with a reset, as a client that was killed."""
    if asking.fileno() >= 0:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        asking.close()


def test_sixteen_aborted_exports_keep_nobody_waiting(
    server: Web, begin: Begin, acme: tuple[Tenant, str], globex: str
) -> None:
    with httpx.Client(base_url=server.url, timeout=5) as client:
        for _ in range(16):
            asking, _beginning = begin(acme[1])
            abort(asking)
        for key in (acme[1], globex):
            answer = client.get("/api/v1/messages/", headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 200
        assert client.get("/admin/login/").status_code == 200
        assert client.get("/health/live").status_code == 200
    until(lambda: not exporting(), seconds=5, what="their queries have ended")


def test_a_tenant_has_two_exports_at_once_and_a_third_is_told_to_wait(
    begin: Begin, acme: tuple[Tenant, str], globex: str
) -> None:
    first, second, third = (begin(acme[1]) for _ in range(3))
    assert [answer.split(b" ", 2)[1] for _, answer in (first, second, third)] == [b"200", b"200", b"429"]
    assert b"retry-after: 10" in third[1].lower()
    assert b"application/problem+json" in third[1]
    assert begin(globex)[1].startswith(b"HTTP/1.1 200"), "somebody else's do not count"
    abort(second[0])
    until(lambda: begin(acme[1])[1].startswith(b"HTTP/1.1 200"), what="its place is free")


def test_an_export_that_is_read_to_its_end_is_whole(server: Web, acme: tuple[Tenant, str]) -> None:
    for _ in range(3):  # each leaves its place to the next
        answer = httpx.get(server.url + EXPORT, headers={"Authorization": f"Bearer {acme[1]}"}, timeout=60)
        assert (answer.status_code, answer.content.count(b"\n")) == (200, MESSAGES + 1)


def exporting() -> int:
    """Count the transactions that hold an export's cursor."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND state <> 'idle' AND xact_start IS NOT NULL"
        )
        return int(cursor.fetchone()[0])
