"""A POST that is sent twice is done once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils.timezone import now
from rest_framework.test import APIClient

from engine.actions.retention import purge_by_schedule, purge_history
from engine.api import ProviderTokenSerializer
from engine.clock.schedules import schedules
from tenants.api import idempotency
from tenants.models import IdempotentRequest, ProviderToken, Tenant
from tenants.scope import all_tenants
from tests.api.conftest import client_for
from tests.factories import two_tenants

TOKENS = "/api/v1/provider-tokens/"
GOOD = {"provider": "whatsapp", "label": "main", "secret": "EAAx"}
KEY = {"Idempotency-Key": "order-1"}


def count(tenant: Tenant | None = None) -> int:
    with all_tenants():
        rows = ProviderToken.objects.all()
        return (rows.filter(tenant=tenant) if tenant else rows).count()


def test_the_same_request_is_answered_again_and_not_done_again(api: APIClient) -> None:
    first = api.post(TOKENS, GOOD, headers=KEY)
    again = api.post(TOKENS, GOOD, headers=KEY)
    assert first.status_code == again.status_code == 201
    assert again.content == first.content
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Content-Type"] == first.headers["Content-Type"]
    assert count() == 1


@pytest.mark.parametrize("body", [{**GOOD, "label": "other"}, {}])
def test_the_same_key_with_another_body_is_refused(api: APIClient, body: dict[str, Any]) -> None:
    api.post(TOKENS, GOOD, headers=KEY)
    refused = api.post(TOKENS, body, headers=KEY)
    assert refused.status_code == 422
    assert refused.json()["code"] == "idempotency_key_reused"
    assert count() == 1


def test_a_key_belongs_to_its_tenant(
    acme: Tenant, bolt: Tenant, api: APIClient, bolts_api: APIClient
) -> None:
    api.post(TOKENS, GOOD, headers=KEY)
    theirs = bolts_api.post(TOKENS, GOOD, headers=KEY)
    assert theirs.status_code == 201
    assert "Idempotency-Replayed" not in theirs.headers
    assert (count(acme), count(bolt)) == (1, 1)


def test_a_refused_request_keeps_nothing_so_that_it_can_be_mended(api: APIClient) -> None:
    assert api.post(TOKENS, {**GOOD, "provider": "fax"}, headers=KEY).status_code == 400
    assert api.post(TOKENS, GOOD, headers=KEY).status_code == 201


def test_a_request_that_broke_keeps_nothing(api: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise RuntimeError("broken")

    api.raise_request_exception = False
    with monkeypatch.context() as patch:
        patch.setattr(ProviderTokenSerializer, "to_representation", broken)
        assert api.post(TOKENS, GOOD, headers=KEY).status_code == 500
    assert count() == 0
    assert api.post(TOKENS, GOOD, headers=KEY).status_code == 201


def test_a_key_is_forgotten_after_a_day(api: APIClient) -> None:
    api.post(TOKENS, GOOD, headers=KEY)
    with all_tenants():
        kept = IdempotentRequest.objects.get()
        IdempotentRequest.objects.update(created_at=kept.created_at - timedelta(hours=25))
    other = api.post(TOKENS, {**GOOD, "label": "other"}, headers=KEY)
    assert other.status_code == 201
    assert count() == 2
    with all_tenants():
        assert purge_history()["idempotency keys"] == 0
        IdempotentRequest.objects.update(created_at=kept.created_at - timedelta(hours=25))
        assert purge_history()["idempotency keys"] == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_a_key_must_be_one(api: APIClient, key: str) -> None:
    response = api.post(TOKENS, GOOD, headers={"Idempotency-Key": key})
    assert response.status_code == 400
    assert response.json()["errors"][0]["field"] == "Idempotency-Key"
    assert count() == 0


def in_thread(client: APIClient, started: threading.Event) -> Any:
    try:
        started.set()
        return client.post(TOKENS, GOOD, headers=KEY)
    finally:
        connection.close()


@pytest.mark.django_db(transaction=True)
def test_the_second_of_two_at_once_waits_and_gets_the_firsts_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is held inside its transaction until the database says that the second waits for it."""
    acme, _ = two_tenants()
    inside, go_on = threading.Event(), threading.Event()
    real = ProviderTokenSerializer.create

    def held(self: ProviderTokenSerializer, data: dict[str, Any]) -> ProviderToken:
        inside.set()
        assert go_on.wait(20)
        return real(self, data)

    monkeypatch.setattr(ProviderTokenSerializer, "create", held)
    clients = client_for(acme), client_for(acme)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(in_thread, clients[0], threading.Event())
        assert inside.wait(20)
        started = threading.Event()
        second = pool.submit(in_thread, clients[1], started)
        assert started.wait(20)
        while not second.done() and not someone_waits():
            pass
        assert not second.done()
        go_on.set()
        answers = first.result(20), second.result(20)
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].content == answers[1].content
    assert answers[1].headers["Idempotency-Replayed"] == "true"
    assert count() == 1


@pytest.mark.django_db(transaction=True)
def test_the_second_of_two_at_once_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    acme, _ = two_tenants()
    inside, go_on = threading.Event(), threading.Event()
    real = ProviderTokenSerializer.create

    def held(self: ProviderTokenSerializer, data: dict[str, Any]) -> ProviderToken:
        inside.set()
        assert go_on.wait(20)
        return real(self, data)

    monkeypatch.setattr(ProviderTokenSerializer, "create", held)
    monkeypatch.setattr(idempotency, "WAIT", "50ms")
    clients = client_for(acme), client_for(acme)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(in_thread, clients[0], threading.Event())
        assert inside.wait(20)
        refused = clients[1].post(TOKENS, GOOD, headers=KEY)
        go_on.set()
        assert first.result(20).status_code == 201
    assert refused.status_code == 409
    assert refused.json()["code"] == "in_progress"
    assert count() == 1


def someone_waits() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(cursor.fetchone()[0])


def test_the_hourly_purge_forgets_for_every_tenant(api: APIClient, bolts_api: APIClient) -> None:
    for client in (api, bolts_api):
        client.post(TOKENS, GOOD, headers=KEY)
    with all_tenants():
        IdempotentRequest.objects.update(created_at=now() - timedelta(hours=25))
    api.post(TOKENS, {**GOOD, "label": "fresh"}, headers={"Idempotency-Key": "order-2"})
    assert purge_by_schedule()["idempotency keys"] == 2
    with all_tenants():
        assert IdempotentRequest.objects.get().key == "order-2"
    assert any(entry.function == "engine.actions.retention.purge_by_schedule" for entry in schedules())
