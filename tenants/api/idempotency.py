"""`Idempotency-Key`: a POST that is sent twice is done once, and answered the same both times."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from django.db import OperationalError, connection, transaction
from django.http import HttpResponse
from django.utils.timezone import now
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

from tenants.api.problems import Conflict, Unprocessable
from tenants.models import IdempotentRequest
from tenants.scope import current_scope

HEADER: Final = "Idempotency-Key"
REPLAYED: Final = "Idempotency-Replayed"
KEPT: Final = timedelta(hours=24)
WAIT: Final = "10s"
"""How long the second of two simultaneous requests waits for the first."""


@dataclass(slots=True, frozen=True)
class Slot:
    """Where this request's answer goes. It belongs to us until the transaction ends."""

    id: int

    def keep(self, status: int, body: bytes) -> None:
        IdempotentRequest.objects.filter(pk=self.id).update(status=status, body=body)

    def give_up(self) -> None:
        IdempotentRequest.objects.filter(pk=self.id).delete()


def reserve(request: Request) -> Slot | HttpResponse | None:
    """Reserve the request's key; returns the stored answer if there is one, None if it carries no key.

    The unique constraint decides between two at once: the second insert waits for the first one's
    transaction, then finds its answer, or a free place if it was rolled back.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise ValidationError({HEADER: ["1 to 255 printable characters."]})
    fingerprint = _fingerprint(request)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT set_config('lock_timeout', %s, true)", [WAIT])
            cursor.execute(
                """
                INSERT INTO tenants_idempotentrequest AS kept (tenant_id, key, fingerprint, body, created_at)
                VALUES (%s, %s, %s, '', %s)
                ON CONFLICT (tenant_id, key) DO UPDATE
                   SET fingerprint = excluded.fingerprint, status = NULL, body = '',
                       created_at = excluded.created_at
                 WHERE kept.created_at < %s
                RETURNING id
                """,
                [current_scope(), key, fingerprint, now(), now() - KEPT],
            )
            row = cursor.fetchone()
            cursor.execute("SELECT set_config('lock_timeout', '0', true)")
    except OperationalError:
        raise Conflict(
            "A request with this Idempotency-Key is still under way.", code="in_progress"
        ) from None
    if row:
        return Slot(row[0])
    kept = IdempotentRequest.objects.get(key=key)
    if kept.fingerprint != fingerprint:
        raise Unprocessable(
            "This Idempotency-Key was used for another request: another address or another body.",
            code="idempotency_key_reused",
        )
    return HttpResponse(
        bytes(kept.body), status=kept.status, content_type="application/json", headers={REPLAYED: "true"}
    )


def _fingerprint(request: Request) -> str:
    raw = request._request
    head = f"{raw.method}\n{raw.get_full_path()}\n{raw.headers.get('Content-Type', '')}\n"
    return hashlib.sha256(head.encode() + raw.body).hexdigest()
