"""What applications do to their own requests from outside a run."""

from __future__ import annotations

from collections.abc import Collection

from django.db import transaction

from engine.clock.schedules import enqueue
from engine.processor.contract import Processor
from engine.store.claims import Claims
from engine.store.session import cursor


@transaction.atomic
def nudge_requests(*, processor: Processor, ids: Collection[int]) -> int:
    """Make these requests due now, e.g. because a webhook says that the vendor is finished; returns how many.

    One that a runner has in hand is due again as soon as the runner puts it back.
    """
    nudged = Claims(processor).nudge(cursor(), ids) if ids else 0
    if nudged:
        enqueue(processor.queue)
    return nudged
