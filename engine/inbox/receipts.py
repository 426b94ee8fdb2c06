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
from typing import Final

import psycopg
import structlog
from django.db import DatabaseError, InterfaceError, connection, transaction
from django.db.models import F
from django.utils import timezone

from engine.clock.stopping import stop_asked
from engine.inbox.record import RunRecord
from engine.models import Receipt
from engine.processor.counts import Counts
from engine.store.errors import Trouble, trouble
from tenants.scope import all_tenants

logger = structlog.get_logger(__name__)

QUEUE: Final = "events"
BATCH: Final = 200
BATCH_BYTES: Final = 16 * 1024 * 1024
"""A batch is read whole, and parsed it is several times as large. Webhooks reach 3 MB."""
POLL_SECONDS: Final = 0.1
RETRY_AFTER: Final = ((1, 5), (2, 60), (3, 600))
"""(attempts made, seconds until the next): a receipt that cannot be applied is kept, with its error."""
MOST_ATTEMPTS: Final = len(RETRY_AFTER) + 1

# The oldest due ones, as many as fit into BATCH_BYTES and one at least. All that were looked at stay locked
# until the batch is done, which is short.
_TAKE: Final = f"""
WITH due AS (
    SELECT id, due_at, CASE WHEN size > 0 THEN size ELSE octet_length(body) END AS size
      FROM engine_receipt
     WHERE applied_at IS NULL AND due_at <= %s AND attempts < {MOST_ATTEMPTS}
     ORDER BY due_at, id LIMIT %s FOR UPDATE SKIP LOCKED
), numbered AS (
    SELECT id, sum(size) OVER oldest AS bytes, row_number() OVER oldest AS number
      FROM due WINDOW oldest AS (ORDER BY due_at, id)
)
SELECT r.id, r.provider, r.tenant_id, r.attempts, r.body
  FROM numbered n JOIN engine_receipt r ON r.id = n.id
 WHERE n.bytes <= %s OR n.number = 1
 ORDER BY n.number
"""


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


@dataclass(slots=True, frozen=True)
class _Taken:
    id: int
    provider: str
    attempts: int
    received: Received


@dataclass(slots=True)
class _Counts:
    """What became of a batch; `updates` is how many its webhooks held."""

    done: int = 0
    retried: int = 0
    failed: int = 0
    updates: int = 0


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
        """Apply what is due until the deadline, or until nothing is left. Work is recorded as a run."""
        report, started = Counts(QUEUE, batch_size=BATCH), time.monotonic()
        deadline, busy_at = started + seconds, started
        with RunRecord(QUEUE, "receipts", report, waiting=self.waiting) as record:
            while (now := time.monotonic()) < deadline and not stop_asked():
                found = self.try_batch(report, record)
                if found:
                    busy_at = now
                    continue
                if found == 0 and (until_empty or now - busy_at > idle_seconds):
                    break
                time.sleep(POLL_SECONDS)
        report.remaining = self.waiting()
        report.seconds = time.monotonic() - started
        if successor and report.remaining and time.monotonic() >= deadline:
            successor()
        return report

    def waiting(self) -> int:
        """Count the receipts still to be applied; those given up on are not."""
        return Receipt.objects.filter(applied_at=None, attempts__lt=MOST_ATTEMPTS).count()

    def try_batch(self, report: Counts, record: RunRecord) -> int | None:
        """Apply a batch; returns how many receipts it had, None when it has to be tried again.

        After a deadlock or a database restart the batch is as it was.
        """
        try:
            if not record.is_open and self.is_due():
                record.open()
            found = self.apply_batch(report) if record.is_open else 0
            if found:
                record.beat()
        except (DatabaseError, InterfaceError, psycopg.Error) as error:
            if not _passes(error):
                raise
            logger.warning("batch not applied, trying again", queue=QUEUE, error=str(error).strip())
            if trouble(error) is Trouble.AWAY:
                connection.close()
            return None
        return found

    def is_due(self) -> bool:
        return Receipt.objects.filter(
            applied_at=None, due_at__lte=timezone.now(), attempts__lt=MOST_ATTEMPTS
        ).exists()

    def apply_batch(self, report: Counts) -> int:
        """Lock and apply the oldest due receipts. Returns how many there were."""
        counts = _Counts()
        with all_tenants(atomic=True):
            taken = self.take()
            by_provider: dict[str, list[_Taken]] = defaultdict(list)
            for one in taken:
                by_provider[one.provider].append(one)
            for provider, theirs in by_provider.items():
                self.apply(provider, theirs, counts)
        # only now: until here it could be undone
        report.claimed += len(taken)
        report.done += counts.done
        report.retried += counts.retried
        report.failed += counts.failed
        report.facts += counts.updates
        return len(taken)

    def take(self) -> list[_Taken]:
        with connection.cursor() as cursor:
            cursor.execute(_TAKE, [timezone.now(), BATCH, BATCH_BYTES])
            return [
                _Taken(row_id, provider, attempts, Received(bytes(body), tenant_id))
                for row_id, provider, tenant_id, attempts, body in cursor.fetchall()
            ]

    def apply(self, provider: str, taken: Sequence[_Taken], counts: _Counts) -> None:
        """Apply together; where that fails, in halves, so that one bad receipt stops no other."""
        try:
            with transaction.atomic():
                updates = _appliers[provider]([one.received for one in taken])
        except Exception as error:
            if _passes(error):
                raise
            if len(taken) > 1:
                half = len(taken) // 2
                self.apply(provider, taken[:half], counts)
                self.apply(provider, taken[half:], counts)
            else:
                self.keep(taken[0], error, counts)
            return
        counts.updates += updates
        counts.done += len(taken)
        ids = [one.id for one in taken]
        Receipt.objects.filter(pk__in=ids).update(applied_at=timezone.now(), error="")

    def keep(self, one: _Taken, error: Exception, counts: _Counts) -> None:
        """Leave a receipt that cannot be applied for later, or for a person, and say why."""
        what = (
            f"{type(error).__name__}: {error}"
            if one.provider in _appliers
            else "nobody applies this provider"
        )
        logger.error("webhook cannot be applied", receipt=one.id, provider=one.provider, error=what)
        wait = next((seconds for made, seconds in RETRY_AFTER if one.attempts < made), None)
        if wait is None:
            counts.failed += 1
        else:
            counts.retried += 1
        Receipt.objects.filter(pk=one.id).update(
            attempts=F("attempts") + 1,
            error=what.replace("\0", "␀")[:2000],
            due_at=timezone.now() + timedelta(seconds=wait or 0),
        )


def _passes(error: BaseException) -> bool:
    """Is it the database's weather, which passes, and nothing that a receipt holds?"""
    return trouble(error) in (Trouble.AGAIN, Trouble.AWAY, Trouble.LOCKED)
