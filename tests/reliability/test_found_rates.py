"""Whatever rate a tenant sets for its own number, nobody else's sending ends with it."""

from __future__ import annotations

import pytest

from benchmarks.harness import fill, sandbox, sending
from engine.models import Lane, Run
from messaging.actions import update_sender
from messaging.models import Message, Sender
from tenants.errors import ActionRefused
from tenants.scope import all_tenants

EACH = 100


@pytest.mark.slow
@pytest.mark.parametrize("rate", [1e-300, 1e-12, 0.01, 1_000_000.0])
def test_an_odd_rate_ends_nobody_elses_run(rate: float) -> None:
    """Once the next slot of such a lane was beyond what a timestamp holds: releasing it ended the run."""
    with sandbox(latency_ms=[200, 10], rate=0) as vendor:
        filled = fill(messages=2 * EACH, senders=2, rate=50)
        with all_tenants():
            odd, good = Lane.objects.filter(pk__in=filled.lanes).order_by("pk")
            sender = Sender.objects.get(lane=odd)
            try:
                update_sender(sender_id=sender.pk, rate_per_second=rate)
            except ActionRefused:  # but a lane's own row may have it
                Lane.objects.filter(pk=odd.pk).update(rate_per_second=rate)
        for _ in range(2):
            with sending(vendor, "--seconds", "4") as process:
                process.ended(seconds=60)
    with all_tenants():
        sent = Message.objects.filter(lane=good, state="accepted").count()
        assert list(Run.objects.exclude(state="done").values_list("state", "error")) == []
        assert sent == EACH
        assert Message.objects.filter(lane=odd, state="in_doubt").count() == 0
