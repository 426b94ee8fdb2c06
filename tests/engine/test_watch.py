"""What the minute's watch opens and ends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

from engine.inbox.receipts import MOST_ATTEMPTS
from engine.models import Allowance, AllowanceUse, FlowHold, Heartbeat, Incident, Lane, Receipt, Run
from engine.watch import checks as watch
from engine.watch.checks import Finding, reconcile, watch_everything
from engine.watch.depth import Depth
from messaging.models import Message
from tenants.scope import all_tenants
from tests import factories

pytestmark = pytest.mark.django_db
LONG_AGO = timezone.now() - timedelta(days=1)
MOST_OPEN = 25


@pytest.fixture(autouse=True)
def scope(db: None) -> Iterator[None]:
    with all_tenants():
        yield


def open_kinds() -> set[str]:
    return set(Incident.objects.filter(ended_at=None).values_list("kind", flat=True))


def poor_runs() -> Any:
    return [factories.RunFactory(queue="messaging", done=30, failed=70)]


def growing_queue() -> Any:
    return [
        factories.RunFactory(
            queue="messaging", queue_before=20_000, queue_after=20_000, ended_at=timezone.now(), state="done"
        )
        for _ in range(3)
    ]


def nearly_used(window: str) -> Any:
    """Spend 180 of 200, in two slots of the window, and much more long before it."""
    token = factories.ProviderTokenFactory()
    allowance = Allowance.objects.create(
        tenant=token.tenant, token=token, limit=200, window=window, timezone="America/Los_Angeles"
    )
    now = timezone.now()
    for slot, spent in ((now, 100), (now - timedelta(seconds=1), 80), (now - timedelta(days=40), 900)):
        AllowanceUse.objects.create(allowance=allowance, tenant_id=0, slot=slot, spent=spent)


CASES: dict[str, tuple[str, Any, Any]] = {
    "few calls succeed": ("success", poor_runs, lambda: Run.objects.update(started_at=LONG_AGO)),
    **{
        f"an allowance is nearly used: {window.label}": (
            "allowance",
            partial(nearly_used, window),
            lambda: AllowanceUse.objects.update(slot=F("slot") - timedelta(days=32)),
        )
        for window in Allowance.Window
    },
    "a flow is held": (
        "flow_held",
        lambda: FlowHold.objects.create(
            tenant=factories.TenantFactory(), processor="messages", flow=7, reason="template", detail="paused"
        ),
        lambda: FlowHold.objects.all().delete(),
    ),
    "a lane is held": (
        "lane_held",
        lambda: factories.LaneFactory(paused_at=timezone.now(), pause_reason="spam", last_error="131048"),
        lambda: Lane.objects.update(paused_at=None, pause_reason=""),
    ),
    "a dead run's lane was not taken over": (
        "lane_stale",
        lambda: factories.LaneFactory(holder=1, leased_until=LONG_AGO),
        lambda: Lane.objects.update(holder=None),
    ),
    "a cluster is silent": (
        "cluster_silent",
        lambda: Heartbeat.objects.create(cluster="messaging", beat_at=LONG_AGO, process="here:1"),
        lambda: Heartbeat.objects.update(beat_at=timezone.now()),
    ),
    "webhooks cannot be applied": (
        "webhooks",
        lambda: Receipt.objects.create(provider="whatsapp", body=b"{}", attempts=MOST_ATTEMPTS, error="?"),
        lambda: Receipt.objects.update(applied_at=timezone.now()),
    ),
    "a webhook was given up on, a day ago by now": (
        "webhooks",
        lambda: Receipt.objects.create(provider="whatsapp", body=b"{}", attempts=MOST_ATTEMPTS, error="?"),
        lambda: Receipt.objects.update(received_at=LONG_AGO, due_at=LONG_AGO),
    ),
    "a cluster is silent that no longer exists": (
        "cluster_silent",
        lambda: Heartbeat.objects.create(cluster="messaging", beat_at=LONG_AGO, process="here:1"),
        lambda: Heartbeat.objects.update(cluster="a queue that was removed"),
    ),
    "a token is dead": (
        "token",
        lambda: factories.ProviderTokenFactory(state="revoked"),
        lambda: factories.tenants.ProviderToken.objects.update(state="active"),
    ),
    "messages stay in doubt": (
        "in_doubt",
        lambda: factories.MessageFactory(state="in_doubt", in_doubt_at=LONG_AGO),
        lambda: Message.objects.update(state="delivered"),
    ),
}


def test_every_kind_that_the_minute_watches_has_a_case() -> None:
    """So that none can be opened that nothing ends."""
    watched = {kind for kind, check in watch._checks.items() if check.__module__.startswith("engine.")}
    assert watched - {kind for kind, _, _ in CASES.values()} - {"queue", "partition"} == set(), (
        "each of these in a test of its own"
    )


@pytest.mark.parametrize(("kind", "make", "mend"), CASES.values(), ids=CASES.keys())
def test_what_is_wrong_opens_one_incident_and_what_is_mended_ends_it(kind: str, make: Any, mend: Any) -> None:
    watch_everything()
    assert kind not in open_kinds()
    make()
    watch_everything()
    watch_everything()
    assert Incident.objects.filter(kind=kind, ended_at=None).count() == 1
    mend()
    watch_everything()
    assert kind not in open_kinds()
    assert Incident.objects.filter(kind=kind).exclude(ended_at=None).count() == 1


HONEST = [
    ("calls that want another one have worked", {"done": 10, "continued": 60, "retried": 10}, False),
    ("the vendor's failures are not", {"done": 10, "failed": 90}, True),
    ("too few to say anything", {"done": 0, "failed": 9}, False),
]


@pytest.mark.parametrize(("counts", "poor"), [c[1:] for c in HONEST], ids=[c[0] for c in HONEST])
def test_success_counts_what_the_vendor_is_to_blame_for(counts: dict[str, int], poor: bool) -> None:
    factories.RunFactory(queue="messaging", **counts)
    watch_everything()
    assert ("success" in open_kinds()) is poor


def test_processors_of_one_queue_succeed_each_for_itself() -> None:
    factories.RunFactory(queue="messaging", processor="messages", done=1_000)
    factories.RunFactory(queue="messaging", processor="texts", done=10, failed=90)
    watch_everything()
    scopes = Incident.objects.filter(kind="success").values_list("scope", flat=True)
    assert list(scopes) == ["queue:messaging/texts"]


def test_a_long_queue_is_an_incident_only_when_it_does_not_get_shorter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "all_queues", lambda: ["messaging"])
    monkeypatch.setattr(watch, "depth_of", lambda queue, most: Depth(queue, most, 1.0))
    growing_queue()
    watch_everything()
    assert "queue" in open_kinds()
    Run.objects.update(queue_after=15_000)
    watch_everything()
    assert "queue" not in open_kinds()


def test_webhooks_of_a_tenant_are_that_tenants_incident() -> None:
    tenants = [factories.TenantFactory(), factories.TenantFactory(), None]
    for tenant in tenants:
        factories.ReceiptFactory(tenant=tenant, attempts=MOST_ATTEMPTS)
    watch_everything()
    whose = set(Incident.objects.filter(kind="webhooks").values_list("tenant_id", flat=True))
    assert whose == {tenant and tenant.pk for tenant in tenants}


def test_one_tenant_cannot_fill_the_list_of_incidents() -> None:
    many, other = factories.TenantFactory(), factories.TenantFactory()
    findings = [Finding(f"lane:{n}", "held", many.pk) for n in range(100)]
    findings.append(Finding("lane:100", "held", other.pk))
    for _ in range(2):
        reconcile("test", findings)
    opened = Incident.objects.filter(kind="test", ended_at=None)
    assert opened.filter(tenant=many).count() == MOST_OPEN + 1
    assert opened.filter(tenant=other).count() == 1
    assert opened.filter(scope="more").count() == 1
    told = Incident.objects.filter(kind="test").count()
    reconcile("test", findings)
    assert Incident.objects.filter(kind="test").count() == told, "the same again opens nothing"
    reconcile("test", findings[-5:])
    watch_everything()
    assert set(opened.values_list("scope", flat=True)) == {f"lane:{n}" for n in range(96, 101)}


def test_a_finding_that_cannot_be_written_keeps_no_other_from_being_written() -> None:
    tenant = factories.TenantFactory()
    reconcile(
        "test",
        [
            Finding("lane:1", "a NUL\x00 in a vendor's words", tenant.pk),
            Finding("lane:2", "of nobody", 987_654_321),
            Finding("lane:3", "fine", tenant.pk),
        ],
    )
    written = Incident.objects.filter(kind="test", ended_at=None).values_list("scope", flat=True)
    assert {"lane:1", "lane:3"} <= set(written)


def test_findings_of_one_tenant_do_not_end_anothers() -> None:
    first, second = factories.TenantFactory(), factories.TenantFactory()
    both = [Finding("lane:1", "one", first.pk), Finding("lane:1", "two", second.pk)]
    assert reconcile("test", both) == 2
    reconcile("test", both[1:])
    assert list(Incident.objects.filter(kind="test", ended_at=None).values_list("tenant_id", flat=True)) == [
        second.pk
    ]
