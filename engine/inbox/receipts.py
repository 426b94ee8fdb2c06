"""The `events` queue: webhooks as they came, applied in batches, in one transaction each.

Nothing is called, so nothing is claimed: a batch is locked, applied and marked in the same transaction, and
a crash leaves it as it was. What applies a receipt must do the same when it is applied twice.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import inf

import structlog
from django.db import OperationalError, connection, transaction
from django.db.models import F
from django.utils import timezone

from engine.clock.stopping import stop_asked
from engine.models import Receipt
from engine.processor.counts import Counts
from tenants.scope import all_tenants

logger = structlog.get_logger(__name__)

BATCH = 200
POLL_SECONDS = 0.1
RETRY_AFTER = ((1, 5), (2, 60), (3, 600))
"""(attempts made, seconds until the next): a receipt that cannot be applied is kept, with its error."""
MOST_ATTEMPTS = len(RETRY_AFTER) + 1


@dataclass(slots=True, frozen=True)
class Received:
    """One webhook: its body as it came, and the tenant whose own app signed it, who alone may be changed by
    it. None: the platform's app signed it."""

    body: bytes
    tenant_id: int | None


Apply = Callable[[Sequence[Received]], int]
_appliers: dict[str, Apply] = {}


def register(provider: str, apply: Apply) -> None:
    """Let `apply` work off this provider's webhooks: it returns the number of updates that they held."""
    _appliers[provider] = apply


def store(provider: str, body: bytes, *, tenant_id: int | None = None) -> Receipt:
    """Keep one webhook in the caller's transaction. The hot intake writes many at a time instead."""
    return Receipt.objects.create(provider=provider, tenant_id=tenant_id, body=body, size=len(body))


class Receipts:
    """The queue that `process events` runs."""

    def run(
        self,
        *,
        seconds: float,
        until_empty: bool = False,
        idle_seconds: float = inf,
        successor: Callable[[], object] | None = None,
    ) -> Counts:
        """Apply what is due until the deadline, or until nothing is left."""
        report, started = Counts("events"), time.monotonic()
        deadline, busy_at = started + seconds, started
        try:
            while (now := time.monotonic()) < deadline and not stop_asked():
                if self.try_batch(report):
                    busy_at = now
                elif until_empty or now - busy_at > idle_seconds:
                    break
                else:
                    time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            logger.info("interrupted; the batch in hand stays as it was", queue="events")
        report.remaining = self.waiting()
        report.seconds = time.monotonic() - started
        if successor and report.remaining and time.monotonic() >= deadline:
            successor()
        return report

    def waiting(self) -> int:
        """Count the receipts still to be applied; those given up on are not."""
        return Receipt.objects.filter(applied_at=None, attempts__lt=MOST_ATTEMPTS).count()

    def try_batch(self, report: Counts) -> int:
        """Apply a batch; after a deadlock or a database restart it is as it was, and tried again."""
        try:
            return self.apply_batch(report)
        except OperationalError as error:
            logger.warning("database away, trying again", queue="events", error=str(error))
            connection.close()
            return 0

    def apply_batch(self, report: Counts) -> int:
        """Lock and apply the oldest due receipts. Returns how many there were."""
        with all_tenants(atomic=True):
            due = Receipt.objects.filter(
                applied_at=None, due_at__lte=timezone.now(), attempts__lt=MOST_ATTEMPTS
            )
            receipts = list(due.order_by("due_at", "id").select_for_update(skip_locked=True)[:BATCH])
            report.claimed += len(receipts)
            by_provider: dict[str, list[Receipt]] = defaultdict(list)
            for receipt in receipts:
                by_provider[receipt.provider].append(receipt)
            for provider, theirs in by_provider.items():
                self.apply(provider, theirs, report)
        return len(receipts)

    def apply(self, provider: str, receipts: Sequence[Receipt], report: Counts) -> None:
        """Apply together; where that fails, one by one, so that one bad receipt stops no other."""
        try:
            with transaction.atomic():
                _appliers[provider](
                    [Received(bytes(receipt.body), receipt.tenant_id) for receipt in receipts]
                )
        except OperationalError:
            raise
        except Exception as error:  # noqa: BLE001 - kept with its receipt, and logged
            if len(receipts) > 1:
                for receipt in receipts:
                    self.apply(provider, [receipt], report)
                return
            self.keep(receipts[0], error)
            report.failed += 1
            return
        ids = [receipt.pk for receipt in receipts]
        Receipt.objects.filter(pk__in=ids).update(applied_at=timezone.now(), error="")
        report.done += len(receipts)

    def keep(self, receipt: Receipt, error: Exception) -> None:
        """Leave a receipt that cannot be applied for later, and say why."""
        what = (
            f"{type(error).__name__}: {error}"
            if receipt.provider in _appliers
            else "nobody applies this provider"
        )
        logger.error("webhook cannot be applied", receipt=receipt.pk, provider=receipt.provider, error=what)
        wait = next((seconds for made, seconds in RETRY_AFTER if receipt.attempts < made), 0)
        Receipt.objects.filter(pk=receipt.pk).update(
            attempts=F("attempts") + 1, error=what[:2000], due_at=timezone.now() + timedelta(seconds=wait)
        )
