"""Vendors' webhooks: verify, store, answer. What they mean is worked out later, by the `events` queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl

import structlog
from django.conf import settings
from django.db import DatabaseError, connection

from config.hot import Answer, ClientGone, Receive, Scope, TooLarge, header, problem, read_body
from engine.inbox.group_commit import GroupCommit, IntakeDown, IntakeFull
from messaging.webhooks import TenantApp, read_tenant_apps, verify_whatsapp
from providers import whatsapp
from providers.base import BadSignature

log = structlog.stdlib.get_logger("turnout.webhooks")

KEPT_SECONDS: Final = 30


class TenantApps:
    """The apps of Meta's that tenants brought, with what may sign their webhooks.

    Kept for 30 s, so that a change takes that long. Without a database the last known ones serve.
    """

    def __init__(self) -> None:
        self._apps: list[TenantApp] = []
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def get(self) -> Sequence[TenantApp]:
        if time.monotonic() - self._read_at >= KEPT_SECONDS:
            async with self._reading:
                if time.monotonic() - self._read_at >= KEPT_SECONDS:
                    try:
                        self._apps = await asyncio.to_thread(_read)
                    except DatabaseError as error:
                        log.warning("webhook secrets not read", error=str(error).strip())
                    self._read_at = time.monotonic()
        return self._apps


class WhatsAppWebhook:
    """`/webhooks/whatsapp/`: Meta's handshake, and its POSTs as they came."""

    def __init__(self, receipts: GroupCommit) -> None:
        self.receipts = receipts
        self.apps = TenantApps()

    async def __call__(self, scope: Scope, receive: Receive) -> Answer:
        if scope["method"] == "GET":
            return await self.greet(scope)
        if scope["method"] == "POST":
            return await self.receive(scope, receive)
        return problem(405, "Only GET and POST", allow="GET, POST")

    async def greet(self, scope: Scope) -> Answer:
        apps = await self.apps.get()
        params = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        for token in (settings.META_VERIFY_TOKEN, *(app.verify_token for app in apps)):
            challenge = whatsapp.handshake(params, token)
            if challenge is not None:
                return Answer(200, challenge.encode())
        return problem(403, "Not the verify token that was agreed")

    async def receive(self, scope: Scope, receive: Receive) -> Answer:
        try:
            body = await read_body(scope, receive, whatsapp.BODY_LIMIT)
        except TooLarge:
            return problem(413, "More than 3 MB", connection="close")
        except ClientGone:
            return problem(400, "The body is not complete")
        apps = await self.apps.get()
        try:
            verify_whatsapp(body, header(scope, whatsapp.SIGNATURE_HEADER), apps)
        except BadSignature as error:
            log.warning("webhook refused", provider="whatsapp", reason=str(error), size=len(body))
            return problem(403, f"Refused: {error}")
        try:
            await self.receipts.put(("whatsapp", None, body), size=len(body))
        except IntakeFull:
            return problem(503, "Too much is waiting", **{"retry-after": "1"})
        except IntakeDown:
            return problem(503, "The database does not answer", **{"retry-after": "5"})
        return Answer(200)


def _read() -> list[TenantApp]:
    try:
        return read_tenant_apps()
    finally:
        connection.close()  # of a thread that may never come back
