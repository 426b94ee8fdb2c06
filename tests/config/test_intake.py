"""Webhooks over the hot path: what is answered is stored, and what is refused is not."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import psycopg
import pytest
from django.db import connection

from config import asgi
from config.webhooks import secrets
from engine.inbox.group_commit import (
    ACCEPTED,
    STORE_RECEIPTS,
    GroupCommit,
    IntakeDown,
    IntakeFull,
    Verdict,
)
from engine.models import Receipt
from providers import whatsapp
from tenants.models import ProviderToken, Tenant
from tenants.scope import all_tenants
from tests.intake import end_connections

HOOK = "/webhooks/whatsapp/"
BODY = json.dumps({"object": "whatsapp_business_account", "entry": []}).encode()

pytestmark = pytest.mark.django_db(transaction=True)

Client = httpx.AsyncClient


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ticks that were asked for."""
    ticks: list[int] = []
    monkeypatch.setattr(asgi, "ask_for_events", lambda: ticks.append(1))
    return ticks


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Client, asgi.Application]]:
    """The whole application, started and stopped as the web server does."""
    application = asgi.Application(threads=2)
    incoming: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    outgoing: asyncio.Queue[Any] = asyncio.Queue()
    life = asyncio.create_task(application({"type": "lifespan"}, incoming.get, outgoing.put))
    incoming.put_nowait({"type": "lifespan.startup"})
    assert (await outgoing.get())["type"] == "lifespan.startup.complete"
    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client, application
    incoming.put_nowait({"type": "lifespan.shutdown"})
    assert (await outgoing.get())["type"] == "lifespan.shutdown.complete"
    await life


@pytest.fixture
def web(asked: list[int]) -> Callable[[Callable[[Client], Awaitable[Any]]], Any]:
    """Run one conversation with the application, and return what it returns."""

    def run(talk: Callable[[Client], Awaitable[Any]]) -> Any:
        async def conversation() -> Any:
            async with serving() as (client, _):
                return await talk(client)

        return asyncio.run(conversation())

    return run


def signed(body: bytes, secret: str) -> dict[str, str]:
    return {whatsapp.SIGNATURE_HEADER: whatsapp.sign(body, secret)}


@pytest.fixture(autouse=True)
def agreed(settings: Any) -> Iterator[None]:
    settings.META_APP_SECRET = "the app's secret"
    settings.META_VERIFY_TOKEN = "the word"
    secrets.forget()
    settings.DEBUG = True  # the settings of a test run would be refused in production
    yield
    connection.close()


def stored() -> list[bytes]:
    return [bytes(body) for body in Receipt.objects.order_by("id").values_list("body", flat=True)]


# -- what is taken


def test_a_signed_webhook_is_stored_as_it_came_and_a_tick_asked_for(web: Any, asked: list[int]) -> None:
    body = b'  {"entry": [], "odd": "\\u00e9 \xc3\xa9"}\n'
    answer = web(lambda client: client.post(HOOK, content=body, headers=signed(body, "the app's secret")))
    assert (answer.status_code, answer.content) == (200, b"")
    receipt = Receipt.objects.get()
    assert (bytes(receipt.body), receipt.provider) == (body, "whatsapp")
    assert (receipt.applied_at, receipt.attempts, receipt.error) == (None, 0, "")
    assert asked


def about(waba_id: str) -> bytes:
    return json.dumps(
        {"object": "whatsapp_business_account", "entry": [{"id": waba_id, "changes": []}]}
    ).encode()


def test_a_tenant_may_have_an_app_of_its_own_that_speaks_for_itself_only(web: Any) -> None:
    tenant = Tenant.objects.create(name="Ann", slug="ann")
    with all_tenants():
        token = ProviderToken(tenant=tenant, provider="whatsapp", label="own", config={"waba_id": "111"})
        token.secret = "t"
        token.secret_config = {"app_secret": "Ann's secret", "verify_token": "Ann's word"}
        token.save()
    hers, others = about("111"), about("222")

    async def talk(client: Client) -> list[int]:
        answers = [
            await client.post(HOOK, content=hers, headers=signed(hers, "Ann's secret")),
            await client.post(HOOK, content=others, headers=signed(others, "the app's secret")),
            await client.get(HOOK, params=greeting("Ann's word")),
            await client.post(HOOK, content=others, headers=signed(others, "Ann's secret")),
            await client.post(HOOK, content=others, headers=signed(others, "Bob's secret")),
        ]
        return [answer.status_code for answer in answers]

    # what Ann's app says of others is kept, and may change nothing that is not Ann's
    assert web(talk) == [200, 200, 200, 200, 403]
    kept = [(bytes(receipt.body), receipt.tenant_id) for receipt in Receipt.objects.order_by("id")]
    assert kept == [(hers, tenant.pk), (others, None), (others, tenant.pk)]


def test_many_at_once_share_commits_and_each_is_stored(asked: list[int]) -> None:
    async def talk() -> tuple[list[int], int]:
        async with serving() as (client, application):
            bodies = [b'{"n": %d}' % number for number in range(300)]
            answers = await asyncio.gather(
                *(client.post(HOOK, content=b, headers=signed(b, "the app's secret")) for b in bodies)
            )
            return [answer.status_code for answer in answers], application.receipts.commits

    statuses, commits = asyncio.run(talk())
    assert statuses == [200] * 300
    assert sorted(stored()) == sorted(b'{"n": %d}' % number for number in range(300))
    assert commits < 100
    assert len(asked) <= 3


# -- what is refused


REFUSED: list[tuple[str, bytes, dict[str, str], int]] = [
    ("unsigned", BODY, {}, 403),
    ("signed by a stranger", BODY, signed(BODY, "guess"), 403),
    ("signed with a secret that was changed since", BODY, signed(BODY, "last year's secret"), 403),
    ("signed for another body", BODY, signed(BODY + b" ", "the app's secret"), 403),
    ("signed with nothing", BODY, signed(BODY, ""), 403),
    ("a signature that is none", BODY, {whatsapp.SIGNATURE_HEADER: "sha256=\xe9"}, 403),
    ("too large, signed", b"x" * (3 * 1024 * 1024 + 1), {}, 413),
]


@pytest.mark.parametrize(
    ("body", "headers", "status"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
@pytest.mark.parametrize("chunked", [False, True], ids=["whole", "chunked"])
def test_forged_and_oversized_webhooks_are_refused_and_nothing_is_stored(
    body: bytes, headers: dict[str, str], status: int, chunked: bool, web: Any, asked: list[int]
) -> None:
    if status == 413:
        headers = signed(body, "the app's secret")

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = web(lambda client: client.post(HOOK, content=chunks() if chunked else body, headers=raw))
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert stored() == []
    assert asked == []


def test_the_largest_that_meta_sends_is_taken(web: Any) -> None:
    body = b"x" * (3 * 1024 * 1024)
    answer = web(lambda client: client.post(HOOK, content=body, headers=signed(body, "the app's secret")))
    assert answer.status_code == 200
    assert stored() == [body]


# -- the handshake


def greeting(token: str, mode: str = "subscribe") -> dict[str, str]:
    return {"hub.mode": mode, "hub.challenge": "1158201444", "hub.verify_token": token}


def test_the_handshake_gives_the_challenge_back(web: Any) -> None:
    answer = web(lambda client: client.get(HOOK, params=greeting("the word")))
    assert (answer.status_code, answer.text) == (200, "1158201444")
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    "params", [{}, greeting("guess"), greeting(""), greeting("the word", mode="unsubscribe")], ids=str
)
def test_a_stranger_gets_no_handshake(params: dict[str, str], web: Any) -> None:
    answer = web(lambda client: client.get(HOOK, params=params))
    assert answer.status_code == 403
    assert "1158201444" not in answer.text


def test_other_methods_are_none(web: Any) -> None:
    answer = web(lambda client: client.put(HOOK, content=BODY))
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


# -- group commit by itself


def commit(talk: Callable[[GroupCommit], Awaitable[Any]], **options: Any) -> Any:
    async def run() -> Any:
        receipts = GroupCommit(STORE_RECEIPTS, **options)
        receipts.start()
        try:
            return await talk(receipts)
        finally:
            await receipts.stop(seconds=5)

    return asyncio.run(run())


def row(number: int) -> tuple[str, int | None, bytes]:
    return ("whatsapp", None, b"%d" % number)


def test_more_than_the_queue_holds_is_turned_away_and_the_rest_stored() -> None:
    async def talk(receipts: GroupCommit) -> list[Any]:
        return await asyncio.gather(
            *(receipts.put(row(number), size=1) for number in range(30)), return_exceptions=True
        )

    answers = commit(talk, rows=20)
    assert [type(answer) for answer in answers] == [Verdict] * 20 + [IntakeFull] * 10
    assert len(stored()) == 20


def test_large_bodies_fill_the_queue_sooner() -> None:
    async def talk(receipts: GroupCommit) -> list[Any]:
        return await asyncio.gather(
            *(receipts.put(row(number), size=400) for number in range(3)), return_exceptions=True
        )

    assert [type(answer) for answer in commit(talk, size=1000)] == [Verdict, Verdict, IntakeFull]


def test_a_broken_connection_is_made_anew_without_losing_a_row() -> None:
    async def talk(receipts: GroupCommit) -> None:
        await receipts.put(row(1), size=1)
        end_connections()
        await receipts.put(row(2), size=1)

    commit(talk)
    assert stored() == [b"1", b"2"]


def test_without_a_database_nothing_is_acknowledged_until_it_is_back() -> None:
    async def talk(receipts: GroupCommit) -> None:
        there, receipts.conninfo = (
            receipts.conninfo,
            psycopg.conninfo.make_conninfo(receipts.conninfo, host="/nonexistent"),
        )
        with pytest.raises(IntakeDown):
            await receipts.put(row(1), size=1)
        receipts.conninfo = there
        await receipts.put(row(2), size=1)

    commit(talk)
    assert stored() == [b"2"]


def test_over_http_a_missing_database_is_503_with_retry_after(asked: list[int]) -> None:
    async def talk() -> httpx.Response:
        async with serving() as (client, application):
            application.receipts.conninfo = "host=/nonexistent"
            return await client.post(HOOK, content=BODY, headers=signed(BODY, "the app's secret"))

    answer = asyncio.run(talk())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert stored() == []


def test_a_caller_that_goes_away_leaves_its_row() -> None:
    async def talk(receipts: GroupCommit) -> None:
        leaving = asyncio.create_task(receipts.put(row(1), size=1))
        await asyncio.sleep(0)
        leaving.cancel()
        await receipts.put(row(2), size=1)

    commit(talk)
    assert stored() == [b"1", b"2"]


def test_stopping_writes_what_waits_and_takes_nothing_more() -> None:
    async def run() -> list[Any]:
        receipts = GroupCommit(STORE_RECEIPTS, batch=5)
        receipts.start()
        waiting = [asyncio.create_task(receipts.put(row(number), size=1)) for number in range(23)]
        await asyncio.sleep(0)
        await receipts.stop()
        with pytest.raises(IntakeFull):
            await receipts.put(row(99), size=1)
        return await asyncio.gather(*waiting, return_exceptions=True)

    assert asyncio.run(run()) == [ACCEPTED] * 23
    assert stored() == [b"%d" % number for number in range(23)]


# -- beside Django


def test_everything_else_is_django(web: Any) -> None:
    async def talk(client: Client) -> tuple[httpx.Response, httpx.Response]:
        return await client.get("/admin/login/"), await client.get("/nowhere/?q=%E9\xe9")

    login, nowhere = web(talk)
    assert login.status_code == 200
    assert login.headers["x-request-id"]
    assert nowhere.status_code == 404


def test_a_query_that_is_not_ascii_breaks_nothing(web: Any) -> None:
    async def talk(_client: Client) -> int:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "GET", "path": "/admin/login/", "query_string": b"next=/\xff\xe9%41",
            "headers": [(b"host", b"localhost")], "http_version": "1.1", "server": ("localhost", 80),
        }  # fmt: skip
        await asgi.Application(threads=1)(scope, receive, send)
        return int(sent[0]["status"])

    assert web(talk) == 200


def test_health_is_told(web: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO engine_heartbeat (cluster, beat_at, process) "
            "VALUES ('messaging', now() - interval '9 s', 'x')"
        )

    async def talk(client: Client) -> tuple[httpx.Response, httpx.Response]:
        return await client.get("/health/live"), await client.get("/health/ready")

    live, ready = web(talk)
    assert (live.status_code, live.text) == (200, "ok")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    assert 9 <= ready.json()["clusters"]["messaging"] < 60


def test_a_process_whose_django_answers_nobody_is_not_alive(
    monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    monkeypatch.setattr(asgi, "LIVE_SECONDS", 0.05)
    go_on = threading.Event()

    async def talk() -> list[int]:
        async with serving() as (client, application):
            threads = application.django
            stuck = [threads.threads.submit(go_on.wait, 10) for _ in range(2)]  # all there are
            threads.answered_at -= 1
            during = await client.get("/health/live")
            go_on.set()
            await asyncio.gather(*map(asyncio.wrap_future, stuck))
            monkeypatch.setattr(asgi, "LIVE_SECONDS", 5)
            return [during.status_code, (await client.get("/health/live")).status_code]

    assert asyncio.run(talk()) == [503, 200]
