"""What `status` and `/metrics` say, over two tenants, and that they cost the same at any length."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now
from prometheus_client.parser import text_string_to_metric_families

from config import metrics, queues
from config.overview import MOST_LANES, overview
from engine.models import Allowance, AllowanceUse, Heartbeat, Lane, Receipt, Run
from engine.watch.incidents import open_incident
from tenants.models import ProviderToken, Tenant
from tenants.scope import all_tenants

pytestmark = pytest.mark.django_db


@pytest.fixture
def tenants() -> list[Tenant]:
    """Two tenants with a lane each: one throttled and near its allowance, one paused."""
    made = [Tenant.objects.create(name=name, slug=name.lower()) for name in ("Ann", "Bob")]
    with all_tenants():
        for tenant in made:
            token = ProviderToken(tenant=tenant, provider="whatsapp", label="main")
            token.secret = "EAAG-s3cret"
            token.hourly_allowance = 200
            token.save()
            AllowanceUse.objects.create(
                allowance=Allowance.objects.get(token=token), tenant_id=tenant.pk, slot=now(), spent=170
            )
            Lane.objects.create(
                tenant=tenant,
                token=token,
                queue="messaging",
                name=f"number of {tenant.name}",
                rate_per_second=80,
                rate_now=40,
            )
        Lane.objects.filter(tenant=made[1]).update(paused_at=now(), pause_reason="token")
    return made


@pytest.fixture
def busy(tenants: list[Tenant]) -> None:
    Heartbeat.objects.create(cluster="messaging", beat_at=now() - timedelta(seconds=9), process="x:1")
    Receipt.objects.create(provider="whatsapp", body=b"{}", due_at=now() - timedelta(seconds=40))
    Receipt.objects.create(provider="whatsapp", body=b"{}", applied_at=now())
    Run.objects.create(
        queue="messaging",
        state="done",
        started_at=now() - timedelta(minutes=5),
        ended_at=now() - timedelta(minutes=4),
        claimed=100,
        done=90,
        failed=10,
        calls=100,
    )
    Run.objects.create(queue="messaging", started_at=now() - timedelta(hours=2), ended_at=now(), done=7)
    open_incident(tenant_id=tenants[1].pk, kind="token", scope="token:1", summary="dead", severity="critical")


def scraped() -> dict[tuple[str, ...], float]:
    """{(metric, label values in the order of their names …): value}"""
    families = text_string_to_metric_families(metrics.scrape().body.decode())
    return {
        (
            sample.name.removeprefix("turnout_"),
            *(value for _, value in sorted(sample.labels.items())),
        ): sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics_are_what_the_tables_say(busy: None, tenants: list[Tenant], monkeypatch: Any) -> None:
    monkeypatch.setattr(connection, "close", lambda: None)  # the test's own transaction
    found = scraped()
    ann, bob = str(tenants[0].pk), str(tenants[1].pk)
    expected = {
        ("queue_waiting", "events"): 1,
        ("runs_last_hour", "messaging"): 1,
        ("run_rows_last_hour", "done", "messaging"): 90,
        ("run_rows_last_hour", "failed", "messaging"): 10,
        ("run_calls_last_hour", "messaging"): 100,
        ("lane_used", "number of Ann", "messaging", ann): 170,
        ("lane_allowance", "number of Ann", "messaging", ann): 200,
        ("lane_rate_per_second", "number of Ann", "messaging", ann): 40,
        ("lane_paused", "number of Ann", "messaging", ann): 0,
        ("lane_paused", "number of Bob", "messaging", bob): 1,
        ("incidents_open", "token", "critical"): 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found["queue_oldest_due_seconds", "events"] == pytest.approx(40, abs=5)
    assert found["heartbeat_age_seconds", "messaging"] == pytest.approx(9, abs=5)
    assert found["run_seconds_last_hour", "messaging"] == pytest.approx(60, abs=1)


def test_status_as_json_is_one_document(busy: None, tenants: list[Tenant]) -> None:
    out = StringIO()
    call_command("status", "--json", stdout=out)
    assert len(out.getvalue().splitlines()) == 1
    now = json.loads(out.getvalue())
    assert now.keys() >= {"queues", "lanes", "incidents", "runs", "clusters"}
    waiting = {queue["queue"]: queue["waiting"] for queue in now["queues"]}
    assert waiting["events"] == 1
    assert [lane["state"] for lane in now["lanes"]] == ["paused: token", "idle"]
    assert (now["lanes"][1]["used"], now["lanes"][1]["allowance"]) == (170, 200)
    assert [incident["summary"] for incident in now["incidents"]] == ["dead"]
    assert {run["done"] for run in now["runs"]} == {90, 7}
    assert "s3cret" not in out.getvalue()


def test_status_for_people_shows_the_same(busy: None) -> None:
    out = StringIO()
    call_command("status", stdout=out)
    shown = out.getvalue()
    for words in ("number of Ann", "170 of 200", "40.0 of 80", "paused: token", "dead", "events"):
        assert words in shown


def test_status_of_an_empty_platform_is_calm(db: None) -> None:
    out = StringIO()
    call_command("status", stdout=out)
    assert "Open incidents: none" in out.getvalue()


def test_many_lanes_cost_no_more_queries_and_the_held_ones_come_first(tenants: list[Tenant]) -> None:
    with CaptureQueriesContext(connection) as few:
        overview()
    with all_tenants():
        first = Lane.objects.get(tenant=tenants[0])
        Lane.objects.bulk_create(
            Lane(
                tenant=tenants[0],
                token_id=first.token_id,
                queue="messaging",
                name=f"number {n}",
            )
            for n in range(MOST_LANES + 20)
        )
    with CaptureQueriesContext(connection) as many:
        shown = overview()
    assert len(many) == len(few)
    assert len(shown["lanes"]) == MOST_LANES
    assert shown["lanes_total"] == MOST_LANES + 22
    assert shown["lanes"][0]["state"] == "paused: token"


def test_queues_are_counted_up_to_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "CAP", 3)
    Receipt.objects.bulk_create(Receipt(provider="whatsapp", body=b"{}") for _ in range(5))
    assert queues.depth("events").waiting == 3
