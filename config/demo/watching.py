"""How far the demo's broadcast is: what we know of it, and what the sandbox says it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import httpx
from django.db import connection
from django.db.models import Count

from engine.models import Receipt
from messaging.models import Broadcast, Message
from messaging.progress import progress_of
from tenants.scope import all_tenants, tenant_scope

# What has at least come this far: a message that was read was delivered, sent and accepted before.
REACHED: Final = {
    "accepted": ("accepted", "sent", "delivered", "read"),
    "sent": ("sent", "delivered", "read"),
    "delivered": ("delivered", "read"),
    "read": ("read",),
    "failed": ("failed",),
}
STATUSES: Final = ("sent", "delivered", "read", "failed")


@dataclass(slots=True)
class View:
    """One look: our counts, and the sandbox's statistics."""

    state: str
    counts: Mapping[str, int]
    rate: float
    vendor: Mapping[str, Any]
    receipts_waiting: int
    applied: Mapping[str, int]

    @property
    def total(self) -> int:
        return self.counts["total"]

    def reached(self, what: str) -> int:
        return sum(self.counts[state] for state in REACHED[what])

    @property
    def sent_statuses(self) -> dict[str, int]:
        by_status = self.vendor["webhooks"]["by_status"]
        return {status: by_status.get(status, 0) for status in STATUSES}

    @property
    def settled(self) -> bool:
        """Is every message at its end, and every status that the vendor sent applied?"""
        under_way = self.counts["queued"] + self.counts["sending"] + self.counts["in_doubt"]
        return (
            self.state == Broadcast.State.COMPLETED
            and not under_way
            and not self.vendor["webhooks"]["pending"]
            and not self.receipts_waiting
            and all(self.applied[status] >= count for status, count in self.sent_statuses.items())
        )

    @property
    def perfect(self) -> bool:
        """Was everybody accepted, once, and do our counts equal the vendor's?

        Ours are of every message since the sandbox began to count: an earlier demo that was broken off
        may have left some, which go out now as well.
        """
        return (
            self.settled
            and self.reached("accepted") == self.total > 0
            and self.applied["accepted"] == self.vendor["total"]["accepted"]
            and all(self.applied[status] == count for status, count in self.sent_statuses.items())
        )


def look(broadcast: Broadcast, sandbox: str, since: datetime) -> View:
    """Look once. `since` is when the sandbox began to count."""
    with tenant_scope(broadcast.tenant_id):
        broadcast = Broadcast.objects.get(pk=broadcast.pk)
        progress = progress_of(broadcast)
    with all_tenants():
        columns = {status: Count(f"{status}_at") for status in ("accepted", *STATUSES)}
        applied = Message.objects.filter(accepted_at__gte=since).aggregate(**columns)
        waiting = Receipt.objects.filter(applied_at=None, received_at__gte=since).count()
    connection.close_if_unusable_or_obsolete()
    answer = httpx.get(f"{sandbox}/_sandbox/stats", timeout=10, trust_env=False)  # no proxy to loopback
    stats = answer.raise_for_status().json()
    counts = {name: progress[name] for name in ("total", "queued", "sending", *REACHED, "in_doubt")}
    return View(progress["state"], counts, progress["rate_per_second"], stats, waiting, applied)
