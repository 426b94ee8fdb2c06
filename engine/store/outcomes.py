"""What each outcome does to its row: one table, and nothing else decides it."""

from __future__ import annotations

from engine.processor.contract import Item, Processor, Report
from engine.store.claims import Settlement
from providers.base import Done, Failed, Hold, InDoubt, Outcome, Pending, Retry, Throttled

DETAIL_LENGTH = 500


def settlement(processor: Processor, item: Item, outcome: Outcome, report: Report) -> Settlement:
    """Say what the row becomes, and count it in the report.

    | outcome   | state                | due           | attempt used | attempt UUID |
    |-----------|----------------------|---------------|--------------|--------------|
    | Done      | done                 |               | yes          | kept         |
    | Pending   | queued               | after         | no           | kept         |
    | Retry     | queued, last: failed | by the policy | yes          | dropped      |
    | Throttled | queued               | after         | no           | dropped      |
    | Failed    | failed               |               | yes          | kept         |
    | InDoubt   | in_doubt             |               | yes          | kept         |
    | Hold      | queued               | as it was     | no           | dropped      |
    """
    match outcome:
        case Done(fields):
            report.done += 1
            return Settlement(item.id, processor.done_state, attempts=item.attempts + 1, fields=fields)
        case Pending(after, fields):
            report.continued += 1
            return Settlement(item.id, "queued", delay=after.total_seconds(), fields=fields)
        case Retry(code, detail, after):
            wait = processor.retry_delay(item.attempts + 1)
            if wait is None:
                report.failed += 1
                return Settlement(
                    item.id,
                    processor.failed_state,
                    attempts=item.attempts + 1,
                    code=code,
                    detail=_short(detail),
                )
            report.retried += 1
            return Settlement(
                item.id,
                "queued",
                delay=(after or wait).total_seconds(),
                attempts=item.attempts + 1,
                code=code,
                detail=_short(detail),
                forget=True,
            )
        case Throttled(after, _, code, detail):
            report.throttled += 1
            delay = after.total_seconds()
            return Settlement(item.id, "queued", delay=delay, code=code, detail=_short(detail), forget=True)
        case Failed(code, detail):
            report.failed += 1
            return Settlement(
                item.id, processor.failed_state, attempts=item.attempts + 1, code=code, detail=_short(detail)
            )
        case InDoubt(detail):
            report.in_doubt += 1
            return Settlement(item.id, "in_doubt", attempts=item.attempts + 1, detail=_short(detail))
        case Hold(_, _, code, detail):
            report.held += 1
            return Settlement(item.id, "queued", code=code, detail=_short(detail), forget=True)


def _short(detail: str) -> str:
    return detail if len(detail) <= DETAIL_LENGTH else detail[: DETAIL_LENGTH - 1] + "…"
