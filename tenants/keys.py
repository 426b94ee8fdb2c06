"""API keys: how one is made, looked up, and counted against its rate."""

from __future__ import annotations

import hashlib
import math
import secrets
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import connection
from django.db.models import Q
from django.utils.timezone import now

from tenants.models import ApiKey
from tenants.scope import all_tenants

WINDOW = timedelta(minutes=1)


@dataclass(slots=True, frozen=True)
class Admission:
    """What a presented key opens. Without `key`, `refusal` says why; `wait` is in seconds, 0: go on."""

    key: ApiKey | None = None
    refusal: str = ""
    wait: int = 0


def make_key() -> tuple[str, str, str]:
    """Make a key; returns the key itself, the prefix that it is known by, and the digest to keep."""
    prefix = secrets.token_hex(4)
    key = f"tk_{prefix}_{secrets.token_urlsafe(32)}"
    return key, prefix, digest(key)


def digest(key: str) -> str:
    """Hash a key. A plain SHA-256 is enough: the secret has 256 random bits, so there is nothing to guess."""
    return hashlib.sha256(key.encode()).hexdigest()


def admit(presented: str) -> Admission:
    """Look a key up and count one request on it, in a short transaction of its own.

    Of its own, because the count locks the key's window: inside the request's transaction all requests
    of a key would wait for each other.
    """
    with all_tenants(atomic=True):
        key = ApiKey.objects.select_related("tenant").filter(digest=digest(presented)).first()
        if key is None:
            return Admission(refusal="There is no such API key.")
        if key.revoked_at is not None:
            return Admission(refusal="This API key was revoked.")
        if key.expires_at is not None and key.expires_at <= now():
            return Admission(refusal="This API key has expired.")
        wait = _count(key.pk, settings.API_REQUESTS_PER_MINUTE)
        _note_use(key)
    return Admission(key=key, wait=wait)


def _note_use(key: ApiKey) -> None:
    """Remember when the key was used, to the minute: a write for each request would tell no more."""
    stale = Q(last_used_at=None) | Q(last_used_at__lt=now() - timedelta(minutes=1))
    if key.last_used_at is None or now() - key.last_used_at > timedelta(minutes=1):
        ApiKey.objects.filter(stale, pk=key.pk).update(last_used_at=now())


# How much of the minute before still lies in the sliding minute that ends now.
_LEFT = "1 - extract(epoch FROM statement_timestamp() - %(bin)s) / 60"
_BIN = "date_bin('1 minute', statement_timestamp(), 'epoch'::timestamptz)"
_USED = f"CASE WHEN w.started_at = {_BIN} THEN w.used ELSE 0 END"
_BEFORE = f"""CASE w.started_at WHEN {_BIN} THEN w.used_before
                                WHEN {_BIN} - interval '1 minute' THEN w.used ELSE 0 END"""


def _count(key_id: int, limit: int) -> int:
    """Count one request if the key's last minute has room; returns 0, or the seconds to wait.

    A sliding window made of two counters, in one statement by the database's clock: exact with any
    number of processes. A refused request is not counted, so whoever waits gets through.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            f"""
            INSERT INTO tenants_apikeywindow AS w (key_id, started_at, used, used_before)
            VALUES (%(key)s, {_BIN}, 1, 0)
            ON CONFLICT (key_id) DO UPDATE
               SET started_at = {_BIN}, used = {_USED} + 1, used_before = {_BEFORE}
             WHERE {_USED} + ({_BEFORE}) * ({_LEFT % {"bin": _BIN}}) < %(limit)s
            RETURNING used
            """,
            {"key": key_id, "limit": limit},
        )
        if cursor.fetchone():
            return 0
        cursor.execute(
            f"""
            SELECT {_USED}, {_BEFORE}, extract(epoch FROM statement_timestamp() - {_BIN})
              FROM tenants_apikeywindow w WHERE key_id = %s
            """,
            [key_id],
        )
        used, before, elapsed = cursor.fetchone()
    return _wait(used, before, float(elapsed), limit)


def _wait(used: int, before: int, elapsed: float, limit: int) -> int:
    """Say in how many whole seconds the sliding minute has room again."""
    seconds = WINDOW.total_seconds()
    if used >= limit:  # in the next minute these are the ones before
        free_at = seconds + seconds * (1 - limit / used)
    else:
        free_at = seconds * (1 - (limit - used) / before) if before else elapsed
    return max(1, math.ceil(free_at - elapsed))
