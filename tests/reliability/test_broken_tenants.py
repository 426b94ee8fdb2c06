"""What one tenant spoils stops that tenant's flow, and nobody else's sending."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from django.db import IntegrityError, connection, transaction

from benchmarks.harness import Filled, Sandbox, fill, sandbox, sending
from engine.models import FlowHold, Incident, Lane, Run
from messaging.models import Broadcast, BroadcastStep, Message
from tenants.scope import all_tenants
from tests.reliability.ledger import assert_nobody_twice

EACH = 60


def unreadable_secret(tenant_id: int) -> None:
    """Leave a token that no key opens."""
    _spoil("UPDATE tenants_providertoken SET sealed_secret = 'x' WHERE tenant_id = %s", tenant_id)


def components_that_are_a_number(tenant_id: int) -> None:
    """Make the components a number, on the template and where a launch has frozen them."""
    spoilt = _spoil("UPDATE messaging_messagetemplate SET components = '5' WHERE tenant_id = %s", tenant_id)
    with connection.cursor() as cursor:
        columns = connection.introspection.get_table_description(cursor, "messaging_broadcaststep")
    if "frozen" in {column.name for column in columns}:
        spoilt = _spoil(
            "UPDATE messaging_broadcaststep SET frozen = frozen || '{\"components\": 5}'"
            " WHERE tenant_id = %s",
            tenant_id,
        )
    assert spoilt, "the database takes no such components: spoil something else"


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [unreadable_secret, components_that_are_a_number])
def test_what_one_tenant_spoils_holds_its_flow_and_nobody_elses(spoil: Callable[[int], None]) -> None:
    """Once the exception ended the run: whatever was in flight, of all tenants, fell into doubt, and each
    further run sent nothing. Now that flow is held with an incident, and all others send everything."""
    with sandbox(latency_ms=[30, 10], rate=0) as vendor:
        filled = fill(messages=2 * EACH, senders=2, rate=100)
        bad, good = _tenants(filled)
        spoil(bad)
        _send(vendor)
        assert _states(good) == {"accepted": EACH}
        assert _states(bad) == {"queued": EACH}
        assert _held(bad)
        assert not _held(good)
        assert any("fault" in kind or "token" in kind for kind in _incidents(bad)), _incidents(bad)
        assert _incidents(good) == []

        later = _tenants(fill(messages=EACH, rate=100))[0]
        _send(vendor)
        assert _states(later) == {"accepted": EACH}
        assert _states(bad) == {"queued": EACH}
        assert_nobody_twice(vendor)
    with all_tenants():
        assert list(Run.objects.exclude(state="done").values_list("state", "error")) == []


@pytest.mark.slow
def test_one_message_with_spoilt_parameters_is_the_only_one_that_is_not_sent_or_held_back() -> None:
    """A row that no call can be made of fails alone, or its flow is held: it is not in doubt, and the other
    tenant's messages all go out."""
    with sandbox(latency_ms=[30, 10], rate=0) as vendor:
        filled = fill(messages=2 * EACH, senders=2, rate=100)
        bad, good = _tenants(filled)
        with all_tenants():
            row = Message.objects.filter(tenant_id=bad).order_by("pk")[EACH // 2].pk
        assert _spoil("UPDATE messaging_message SET parameters = '5' WHERE id = %s", row)
        _send(vendor)
        assert _states(good) == {"accepted": EACH}
        with all_tenants():
            state = Message.objects.values_list("state", flat=True).get(pk=row)
        if _held(bad):
            assert state == "queued"
            assert _states(bad).keys() <= {"accepted", "queued"}
            assert any("fault" in kind for kind in _incidents(bad)), _incidents(bad)
        else:
            assert state == "failed"
            assert _states(bad) == {"accepted": EACH - 1, "failed": 1}
        assert_nobody_twice(vendor)
    with all_tenants():
        assert list(Run.objects.exclude(state="done").values_list("state", "error")) == []


def _send(vendor: Sandbox) -> None:
    with sending(vendor, "--until-empty") as process:
        process.ended(seconds=60)


def _spoil(statement: str, row: int) -> bool:
    """Write what no form would; False where a constraint refuses it."""
    try:
        with all_tenants(), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement, [row])
            assert cursor.rowcount
    except IntegrityError:
        return False
    return True


def _tenants(filled: Filled) -> list[int]:
    with all_tenants():
        return list(
            Lane.objects.filter(pk__in=filled.lanes).order_by("pk").values_list("tenant_id", flat=True)
        )


def _states(tenant_id: int) -> Counter[str]:
    with all_tenants():
        return Counter(Message.objects.filter(tenant_id=tenant_id).values_list("state", flat=True))


def _held(tenant_id: int) -> bool:
    """Say whether anything of the tenant waits for a person: a flow, a lane, a step, a broadcast."""
    with all_tenants():
        return (
            FlowHold.objects.filter(tenant_id=tenant_id).exists()
            or Lane.objects.filter(tenant_id=tenant_id, paused_at__isnull=False).exists()
            or BroadcastStep.objects.filter(tenant_id=tenant_id, state="paused").exists()
            or Broadcast.objects.filter(tenant_id=tenant_id, state="paused").exists()
        )


def _incidents(tenant_id: int) -> list[str]:
    with all_tenants():
        return list(
            Incident.objects.filter(tenant_id=tenant_id, ended_at=None).values_list("kind", flat=True)
        )
