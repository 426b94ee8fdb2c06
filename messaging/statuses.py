"""Apply what WhatsApp's webhooks say: statuses to messages, set-based, whatever their order and number.

The same end state is reached in whatever order statuses come and however often: every time column keeps
the earliest time told, the state is the strongest told, and a failure counts only for the attempt that
the message is at (a late copy of an older one must not undo its retry).

A message that waits to be sent again, because its earlier attempt was in doubt, is settled by a status which
proves that the earlier one went out: it takes that attempt back and does not leave again. Attempts that are
known to have failed (`Message.dismissed`) prove nothing of the kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from django.db import connection

from engine.store.attempts import row_of
from messaging.actions import hold_broadcasts, refuse_after_failures, suppress
from messaging.models import Message, Suppression
from messaging.notices import apply_notices
from messaging.rules import HOLDING_CLASSES, MARKETING_STOP, Reason
from providers.whatsapp import (
    ErrorClass,
    Event,
    StatusUpdate,
    classify,
    is_marketing_opt_out,
    parse_webhook,
)

log = structlog.stdlib.get_logger("turnout.webhooks")

DETAIL_LENGTH: Final = 500
_COLUMN: Final = {
    "sent": "sent",
    "delivered": "delivered",
    "read": "read",
    "played": "read",
    "failed": "failed",
}


@dataclass(slots=True)
class Told:
    """All that a batch of webhooks says of one attempt at one message."""

    row_id: int
    attempt: UUID | None
    """None when it was found by the vendor's id, which the row holds for its latest attempt only."""
    address: str
    wamid: str
    sent: datetime | None = None
    delivered: datetime | None = None
    read: datetime | None = None
    failed: datetime | None = None
    code: str = ""
    detail: str = ""

    def add(self, status: StatusUpdate) -> None:
        """Keep the earliest of each; of failures at one time the lower code: order does not matter."""
        column = _COLUMN[status.status]
        known: datetime | None = getattr(self, column)
        if column == "failed":
            key = (status.at, status.error_code)
            if known is None or key < (known, self.code):
                self.failed, self.code = status.at, status.error_code[:32]
                self.detail = (status.error_detail or status.error_title)[:DETAIL_LENGTH]
        elif known is None or status.at < known:
            setattr(self, column, status.at)


@dataclass(slots=True, frozen=True)
class Failure:
    """A message that a webhook has just failed."""

    tenant_id: int
    lane_id: int
    token_id: int
    step_id: int
    phone: str
    code: str
    detail: str


# `told` is joined to the lane's name, so that a notice about one number cannot touch another's messages.
# Rows are locked in the order of their ids, as everybody who writes many of them does.
APPLY: Final = """
WITH told AS (
    SELECT * FROM unnest(%s::bigint[], %s::uuid[], %s::text[], %s::text[], %s::timestamptz[],
                         %s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::text[], %s::text[])
        AS t (row_id, told_attempt, address, told_wamid, sent, delivered, read, failed, code, detail)
), locked AS (
    SELECT m.id, m.state, m.wamid, m.accepted_at, m.sent_at, m.delivered_at, m.read_at,
           m.error_code, m.error_detail, m.attempt, m.dismissed, t.*,
           m.failed_at AS kept_failed_at,
           -- an operator's word is no failure that the vendor has told
           CASE WHEN m.state <> 'failed' OR m.error_code <> 'not_sent' THEN m.failed_at END AS failed_at,
           (t.told_attempt IS NULL OR t.told_attempt IS NOT DISTINCT FROM m.attempt) AS latest,
           coalesce(t.told_attempt = ANY(m.dismissed), false) AS known_failed
      FROM told t
      JOIN messaging_message m ON m.id = t.row_id
      JOIN engine_lane l ON l.id = m.lane_id AND l.name = t.address
     ORDER BY m.id FOR NO KEY UPDATE OF m
), counted AS (
    SELECT *,
           failed IS NOT NULL AND latest AND state NOT IN ('queued', 'claimed', 'cancelled', 'suppressed')
               AS fails,
           -- sent by an older attempt and not arrived yet: does not answer for the one under way, but spares
           -- the one that has not left, unless the older one failed afterwards
           sent IS NOT NULL AND (latest OR state NOT IN ('queued', 'claimed', 'sending')
               OR (state <> 'sending' AND failed IS NULL AND NOT known_failed)) AS sends,
           failed IS NOT NULL AND NOT latest AND NOT known_failed
               AND state IN ('queued', 'claimed', 'sending') AS fails_older,
           NOT latest AND state IN ('queued', 'claimed') AS waits
      FROM locked
), judged AS (
    SELECT *,
           fails AND failed_at IS NULL AS newly_failed,
           CASE WHEN read IS NOT NULL OR state = 'read' THEN 'read'
                WHEN delivered IS NOT NULL OR state = 'delivered' THEN 'delivered'
                WHEN fails OR (state = 'failed' AND failed_at IS NOT NULL) THEN 'failed'
                WHEN sends OR state = 'sent' THEN 'sent'
                ELSE state END AS new_state,
           fails AND (failed_at IS NULL OR failed < failed_at OR (failed = failed_at AND code < error_code))
               AS fails_first
      FROM counted
), news AS (
    SELECT id, newly_failed, new_state,
           CASE WHEN fails THEN least(failed_at, failed)
                WHEN new_state = 'failed' THEN kept_failed_at ELSE failed_at END AS new_failed_at,
           CASE WHEN wamid = '' AND (latest OR waits AND new_state NOT IN ('queued', 'claimed'))
                THEN told_wamid ELSE wamid END AS new_wamid,
           CASE WHEN waits AND new_state NOT IN ('queued', 'claimed') THEN told_attempt ELSE attempt END
               AS new_attempt,
           CASE WHEN fails_older THEN array_append(dismissed, told_attempt) ELSE dismissed END
               AS new_dismissed,
           CASE WHEN fails OR sends OR delivered IS NOT NULL OR read IS NOT NULL
                THEN coalesce(accepted_at, least(sent, delivered, read, failed)) ELSE accepted_at END
               AS new_accepted_at,
           CASE WHEN sends THEN least(sent_at, sent) ELSE sent_at END AS new_sent_at,
           least(delivered_at, delivered) AS new_delivered_at,
           least(read_at, read) AS new_read_at,
           CASE WHEN fails_first THEN code
                WHEN failed_at IS NULL AND NOT fails AND new_state IN ('sent', 'delivered', 'read') THEN ''
                ELSE error_code END AS new_code,
           CASE WHEN fails_first THEN detail
                WHEN failed_at IS NULL AND NOT fails AND new_state IN ('sent', 'delivered', 'read') THEN ''
                ELSE error_detail END AS new_detail
      FROM judged
), written AS (
    UPDATE messaging_message m
       SET state = new_state, wamid = new_wamid, attempt = new_attempt, dismissed = new_dismissed,
           accepted_at = new_accepted_at, sent_at = new_sent_at,
           delivered_at = new_delivered_at, read_at = new_read_at, failed_at = new_failed_at,
           error_code = new_code, error_detail = new_detail
      FROM news n
     WHERE m.id = n.id
       AND (m.state, m.wamid, m.attempt, m.dismissed, m.accepted_at, m.sent_at, m.delivered_at, m.read_at,
            m.failed_at, m.error_code, m.error_detail)
           IS DISTINCT FROM
           (new_state, new_wamid, new_attempt, new_dismissed, new_accepted_at, new_sent_at, new_delivered_at,
            new_read_at, new_failed_at, new_code, new_detail)
    RETURNING m.tenant_id, m.lane_id, m.step_id, m.phone, n.newly_failed AND m.state = 'failed' AS failed,
              m.error_code, m.error_detail
)
SELECT w.tenant_id, w.lane_id, l.token_id, w.step_id, w.phone, w.error_code, w.error_detail
  FROM written w JOIN engine_lane l ON l.id = w.lane_id WHERE w.failed
"""


def apply_whatsapp(bodies: Sequence[bytes]) -> int:
    """Apply the updates of many webhooks, in the caller's transaction and scope; returns how many they held.

    Raises Unreadable when a body is no JSON object: the caller then applies them one by one.
    """
    events: list[Event] = []
    for body in bodies:
        events.extend(parse_webhook(body))
    apply_statuses(event for event in events if isinstance(event, StatusUpdate))
    apply_notices([event for event in events if not isinstance(event, StatusUpdate)])
    return len(events)


def apply_statuses(statuses: Iterable[StatusUpdate]) -> None:
    """Apply statuses with one statement, and see to what failures mean for others."""
    for told in _rounds(_gather(statuses)):
        failures = _write(told)
        if failures:
            _see_to(failures)


def _gather(statuses: Iterable[StatusUpdate]) -> list[Told]:
    """Merge what is said of the same attempt. Statuses that are not of our sending are left out."""
    by_attempt: dict[tuple[str, str], Told] = {}
    nameless: list[StatusUpdate] = []
    for status in statuses:
        if status.status not in _COLUMN:
            continue
        if not status.attempt:
            nameless.append(status)
            continue
        key = (status.attempt, status.phone_number_id)
        told = by_attempt.get(key)
        if told is None:
            attempt = _read_attempt(status.attempt)
            row_id = row_of(attempt) if attempt else None
            if attempt is None or row_id is None:
                nameless.append(status)
                continue
            told = by_attempt[key] = Told(row_id, attempt, status.phone_number_id, status.wamid)
        told.add(status)
    return [*by_attempt.values(), *_gather_by_wamid(nameless)]


def _gather_by_wamid(statuses: Sequence[StatusUpdate]) -> list[Told]:
    """Find messages by the vendor's id, for statuses that do not echo an attempt."""
    wamids = {status.wamid for status in statuses}
    if not wamids:
        return []
    rows = Message.objects.filter(wamid__in=wamids).exclude(wamid="").values_list("wamid", "pk")
    row_ids = dict(rows)
    told: dict[tuple[int, str], Told] = {}
    for status in statuses:
        if row_id := row_ids.get(status.wamid):
            key = (row_id, status.phone_number_id)
            if key not in told:
                told[key] = Told(row_id, None, status.phone_number_id, status.wamid)
            told[key].add(status)
    return list(told.values())


def _rounds(told: Sequence[Told]) -> Iterable[list[Told]]:
    """Part what is told so that no part has a row twice: an UPDATE writes it once. Nearly always one part."""
    parts: list[dict[int, Told]] = []
    seen: dict[int, int] = defaultdict(int)
    for one in told:
        n = seen[one.row_id]
        seen[one.row_id] += 1
        if n == len(parts):
            parts.append({})
        parts[n][one.row_id] = one
    return [list(part.values()) for part in parts]


def _read_attempt(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _write(told: Sequence[Told]) -> list[Failure]:
    columns = [
        [getattr(one, name) for one in told]
        for name in (
            "row_id",
            "attempt",
            "address",
            "wamid",
            "sent",
            "delivered",
            "read",
            "failed",
            "code",
            "detail",
        )
    ]
    with connection.cursor() as cursor:
        cursor.execute(APPLY, columns)
        return [Failure(*row) for row in cursor.fetchall()]


def _see_to(failures: Sequence[Failure]) -> None:
    """Do what a failure asks for beyond its message: a suppression, a halt, a look at the step."""
    opted_out: dict[int, set[str]] = defaultdict(set)
    lanes: dict[tuple[int, ErrorClass], Failure] = {}
    steps: dict[int, Failure] = {}
    for failure in failures:
        kind = classify(failure.code)
        if is_marketing_opt_out(failure.code):
            opted_out[failure.tenant_id].add(failure.phone)
        elif kind in HOLDING_CLASSES:
            lanes.setdefault((failure.lane_id, kind), failure)
        elif kind is ErrorClass.TEMPLATE:
            steps.setdefault(failure.step_id, failure)
    for tenant_id, phones in opted_out.items():
        suppress(
            tenant_id=tenant_id,
            phones=phones,
            channel=Suppression.Channel.WHATSAPP_MARKETING,
            reason=MARKETING_STOP,
        )
    for (lane_id, kind), failure in lanes.items():
        reason, whole_token = HOLDING_CLASSES[kind]
        detail = f"{failure.code}: {failure.detail}"
        if whole_token:
            hold_broadcasts(token_id=failure.token_id, reason=reason, detail=detail)
        else:
            hold_broadcasts(lane_ids=[lane_id], reason=reason, detail=detail)
    for step_id, failure in steps.items():
        hold_broadcasts(
            step_id=step_id,
            reason=Reason.TEMPLATE,
            detail=f"{failure.code}: {failure.detail}",
            code=failure.code,
        )
    refuse_after_failures(step_ids={failure.step_id for failure in failures})
