"""One open incident per tenant, kind and scope, told once when it opens and once when it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.db import connection, transaction

from engine.models import Incident
from engine.watch.alerts import TELLER, tell_incidents
from engine.watch.incidents import end_incident, open_incident
from tenants.models import Tenant

incidents = Incident._base_manager
SLOW: dict[str, Any] = {"kind": "success_low", "scope": "lane:7"}


@pytest.fixture
def tenants(transactional_db: None) -> list[int]:
    return [Tenant.objects.create(name=name, slug=name.lower()).pk for name in ("Ann", "Bob")]


class Inbox:
    """An alert service on loopback: what it was told, and the status that it answers with."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.status = 200

    @property
    def titles(self) -> list[str]:
        return [message["title"] for message in self.told]


@pytest.fixture
def inbox(settings: Any) -> Iterator[Inbox]:
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if inbox.status == 200:
                inbox.told.append(json.loads(body))
            self.send_response(inbox.status)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings.ALERT_URLS = [f"json://127.0.0.1:{server.server_port}/"]
    yield inbox
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("whose", [0, None], ids=["a tenant's", "the platform's"])
def test_opening_again_refreshes_the_open_one(tenants: list[int], whose: int | None) -> None:
    tenant_id = None if whose is None else tenants[whose]
    first = open_incident(tenant_id=tenant_id, summary="75 % succeed", **SLOW)
    again = open_incident(tenant_id=tenant_id, summary="60 % succeed", severity="critical", **SLOW)
    assert again.pk == first.pk
    row = incidents.get()
    assert (row.summary, row.severity) == ("60 % succeed", "critical")
    assert row.opened_at == first.opened_at
    assert row.seen_at > first.seen_at


def test_tenants_kinds_and_scopes_are_apart(tenants: list[int]) -> None:
    ann, bob = tenants
    for tenant_id, kind, scope in [
        (ann, "success_low", "lane:7"),
        (bob, "success_low", "lane:7"),
        (ann, "token_dead", "lane:7"),
        (ann, "success_low", "lane:8"),
        (None, "success_low", "lane:7"),
    ]:
        open_incident(tenant_id=tenant_id, kind=kind, scope=scope, summary="x")
    assert incidents.count() == 5
    assert end_incident(tenant_id=ann, **SLOW) == 1
    assert incidents.filter(ended_at__isnull=True).count() == 4


def test_what_ended_may_open_again_as_a_new_one(tenants: list[int]) -> None:
    first = open_incident(tenant_id=tenants[0], summary="x", **SLOW)
    assert end_incident(tenant_id=tenants[0], **SLOW) == 1
    assert end_incident(tenant_id=tenants[0], **SLOW) == 0
    second = open_incident(tenant_id=tenants[0], summary="x", **SLOW)
    assert second.pk != first.pk
    assert incidents.filter(ended_at__isnull=True).count() == 1


def test_many_processes_at_once_open_one(tenants: list[int]) -> None:
    together = threading.Barrier(8)
    opened: list[int] = []

    def open_one() -> None:
        together.wait()
        try:
            opened.extend(open_incident(tenant_id=None, summary="x", **SLOW).pk for _ in range(5))
        finally:
            connection.close()

    threads = [threading.Thread(target=open_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(opened) == 40
    assert set(opened) == {incidents.get().pk}


def test_each_is_told_once_when_it_opens_and_once_when_it_ends(tenants: list[int], inbox: Inbox) -> None:
    open_incident(tenant_id=tenants[0], summary="75 % succeed", **SLOW)
    assert [tell_incidents(), tell_incidents()] == [1, 0]
    open_incident(tenant_id=tenants[0], summary="60 % succeed", **SLOW)
    assert tell_incidents() == 0
    end_incident(tenant_id=tenants[0], **SLOW)
    assert [tell_incidents(), tell_incidents()] == [1, 0]
    assert inbox.titles == ["Incident: 75 % succeed", "Over: 60 % succeed"]
    assert inbox.told[0]["message"].startswith("Ann: 75 % succeed (success_low, lane:7, ")


def test_many_at_once_are_one_alert(tenants: list[int], inbox: Inbox) -> None:
    for lane in range(30):
        open_incident(tenant_id=tenants[lane % 2], kind="token_dead", scope=f"lane:{lane}", summary="dead")
    assert tell_incidents() == 30
    assert inbox.titles == ["Incident: 30 at once"]
    assert "and 10 more" in inbox.told[0]["message"]


def test_one_that_is_over_before_it_was_told_is_told_once(tenants: list[int], inbox: Inbox) -> None:
    open_incident(tenant_id=None, summary="queue grows", **SLOW)
    end_incident(tenant_id=None, **SLOW)
    assert [tell_incidents(), tell_incidents()] == [1, 0]
    assert len(inbox.told) == 1
    assert ", until " in inbox.told[0]["message"]


def test_what_no_address_took_is_told_again(tenants: list[int], inbox: Inbox) -> None:
    open_incident(tenant_id=None, summary="x", **SLOW)
    inbox.status = 500
    assert tell_incidents() == 0
    inbox.status = 200
    assert tell_incidents() == 1
    assert len(inbox.told) == 1


def test_without_addresses_nothing_piles_up(tenants: list[int], settings: Any) -> None:
    settings.ALERT_URLS = []
    open_incident(tenant_id=None, summary="x", **SLOW)
    assert [tell_incidents(), tell_incidents()] == [1, 0]


def test_only_one_process_tells(tenants: list[int], inbox: Inbox) -> None:
    open_incident(tenant_id=None, summary="x", **SLOW)
    held, release = threading.Event(), threading.Event()

    def other_process() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [TELLER])
            held.set()
            release.wait()
        connection.close()

    thread = threading.Thread(target=other_process)
    thread.start()
    held.wait()
    assert tell_incidents() == 0
    release.set()
    thread.join()
    assert inbox.told == []


def test_no_alert_goes_out_of_a_transaction(tenants: list[int]) -> None:
    with transaction.atomic(), pytest.raises(RuntimeError, match="transaction"):
        tell_incidents()
