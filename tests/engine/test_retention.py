"""What `purge` deletes and what it leaves, over two tenants."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.utils.timezone import now

from engine.actions.retention import purge_by_schedule, purge_history
from engine.inbox.receipts import MOST_ATTEMPTS
from engine.models import Allowance, AllowanceUse, Incident, Receipt, Run
from tenants.models import IdempotentRequest, Tenant
from tenants.scope import all_tenants
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)

LEFT = {"kept"}
KEPT, OLD_USE = 0, 1  # as whose spending they are written


def ago(days: float) -> Any:
    return now() - timedelta(days=days)


@pytest.fixture
def history() -> Iterator[None]:
    """Rows on both sides of every limit; those that stay say so."""
    with all_tenants():
        for slug in ("ann", "bob"):
            tenant = Tenant.objects.create(name=slug, slug=slug)
            for kept, days in (("kept", 6.9), ("old", 7.1)):
                Receipt.objects.create(
                    provider=kept, tenant=tenant, body=b"", applied_at=ago(days), received_at=ago(400)
                )
            given_up = {"tenant": tenant, "body": b"", "attempts": MOST_ATTEMPTS}
            Receipt.objects.create(provider="kept", received_at=ago(29), **given_up)
            Receipt.objects.create(provider="old", received_at=ago(31), **given_up)
            Receipt.objects.create(
                provider="kept", tenant=tenant, body=b"", received_at=ago(400)
            )  # to be applied
            for kept, days in (("kept", 179), ("old", 181)):
                Incident.objects.create(
                    tenant=tenant, kind=kept, scope=kept, summary=kept, opened_at=ago(400), ended_at=ago(days)
                )
            Incident.objects.create(tenant=tenant, kind="kept", scope="open", summary="", opened_at=ago(400))
            for kept, days in (("kept", 0.9), ("old", 1.1)):
                request = IdempotentRequest.objects.create(tenant=tenant, key=kept, fingerprint="")
                IdempotentRequest.objects.filter(pk=request.pk).update(created_at=ago(days))
            token = factories.ProviderTokenFactory(tenant=tenant)
            first = now().replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            for window, kept_slot, old_slot in (
                ("hour", ago(1.9), ago(2.1)),
                ("calendar_month", first, ago(33)),
            ):
                allowance = Allowance.objects.create(
                    tenant=tenant, token=token, limit=1, window=window, unit=window
                )
                for tenant_id, slot in ((KEPT, kept_slot), (OLD_USE, old_slot)):
                    AllowanceUse.objects.create(allowance=allowance, tenant_id=tenant_id, slot=slot, spent=1)
        for kept, days, state in (("kept", 89, "done"), ("old", 91, "failed"), ("kept", 91, "running")):
            Run.objects.create(queue=kept, process="x", started_at=ago(days), state=state)
        yield


OLD = {
    "applied webhooks": 2,
    "webhooks given up on": 2,
    "runs": 1,
    "ended incidents": 2,
    "spending": 4,
    "idempotency keys": 2,
    "partitions": 0,
}


def left() -> list[tuple[int, set[str]]]:
    """Count what is left of each table, and say whether it is only what is kept."""
    columns = ((Receipt, "provider"), (Run, "queue"), (Incident, "kind"), (IdempotentRequest, "key"))
    found = [list(model.objects.values_list(column, flat=True)) for model, column in columns]
    return [(len(values), set(values)) for values in found]


def test_what_is_older_than_it_is_kept_goes_and_nothing_else(history: None) -> None:
    assert purge_history() == OLD
    assert left() == [(6, LEFT), (2, LEFT), (4, LEFT), (2, LEFT)]
    assert set(AllowanceUse.objects.values_list("tenant_id", flat=True)) == {KEPT}
    assert set(purge_history().values()) == {0}


def test_small_chunks_delete_all_of_it_too(history: None) -> None:
    assert purge_history(chunk=1) == OLD


def test_out_of_time_it_stops_and_says_what_it_did(history: None) -> None:
    assert purge_history(seconds=0) == dict.fromkeys(OLD, 0)


def test_a_dry_run_counts_and_deletes_nothing(history: None, capsys: pytest.CaptureFixture[str]) -> None:
    before = left()
    call_command("purge", "--dry-run")
    assert capsys.readouterr().out.startswith(
        "would delete 2 applied webhooks, 2 webhooks given up on, 1 runs"
    )
    assert left() == before
    call_command("purge")
    assert capsys.readouterr().out.startswith("deleted 2 applied webhooks")


def test_webhooks_are_kept_as_long_as_the_setting_says(history: None, settings: Any) -> None:
    settings.RECEIPT_DAYS = 8
    assert purge_history()["applied webhooks"] == 0


def test_the_schedule_purges_every_tenants_history(history: None) -> None:
    assert purge_by_schedule() == OLD
