"""Vendors' webhooks: verify, store, answer. What they mean is worked out later, by the `events` queue."""

from __future__ import annotations

import asyncio
import time
from typing import Final
from urllib.parse import parse_qsl

import structlog
from django.conf import settings
from django.db import DatabaseError, connection

from config.hot import Answer, ClientGone, Receive, Scope, TooLarge, header, problem, read_body
from engine.intake import GroupCommit, IntakeDown, IntakeFull
from providers import whatsapp
from providers.base import BadSignature
from tenants.models import ProviderToken
from tenants.scope import all_tenants
from tenants.secrets import SecretUnreadable

log = structlog.stdlib.get_logger("turnout.webhooks")

KEPT_SECONDS: Final = 30


class MetaSecrets:
    """What Meta may sign or greet us with: the app's own, and those of tenants with an app of theirs.

    Kept for 30 s, so that a change takes that long. Without a database the last known ones serve.
    """

    def __init__(self) -> None:
        self.app_secrets: list[str] = [settings.META_APP_SECRET]
        self.verify_tokens: list[str] = [settings.META_VERIFY_TOKEN]
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def refresh(self) -> None:
        if time.monotonic() - self._read_at < KEPT_SECONDS:
            return
        async with self._reading:
            if time.monotonic() - self._read_at < KEPT_SECONDS:
                return
            try:
                app_secrets, verify_tokens = await asyncio.to_thread(_tenants_secrets)
            except DatabaseError as error:
                log.warning("webhook secrets not read", error=str(error).strip())
            else:
                self.app_secrets = [settings.META_APP_SECRET, *app_secrets]
                self.verify_tokens = [settings.META_VERIFY_TOKEN, *verify_tokens]
            self._read_at = time.monotonic()


class WhatsAppWebhook:
    """`/webhooks/whatsapp/`: Meta's handshake, and its POSTs as they came."""

    def __init__(self, receipts: GroupCommit) -> None:
        self.receipts = receipts
        self.secrets = MetaSecrets()

    async def __call__(self, scope: Scope, receive: Receive) -> Answer:
        if scope["method"] == "GET":
            return await self.greet(scope)
        if scope["method"] == "POST":
            return await self.receive(scope, receive)
        return problem(405, "Only GET and POST", allow="GET, POST")

    async def greet(self, scope: Scope) -> Answer:
        await self.secrets.refresh()
        params = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        for token in self.secrets.verify_tokens:
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
        await self.secrets.refresh()
        try:
            whatsapp.verify(body, header(scope, whatsapp.SIGNATURE_HEADER), self.secrets.app_secrets)
        except BadSignature as error:
            log.warning("webhook refused", provider="whatsapp", reason=str(error), size=len(body))
            return problem(403, f"Refused: {error}")
        try:
            await self.receipts.put(("whatsapp", body), size=len(body))
        except IntakeFull:
            return problem(503, "Too much is waiting", **{"retry-after": "1"})
        except IntakeDown:
            return problem(503, "The database does not answer", **{"retry-after": "5"})
        return Answer(200)


def _tenants_secrets() -> tuple[list[str], list[str]]:
    """Read (app secrets, verify tokens) of every WhatsApp token that carries its own."""
    app_secrets, verify_tokens = set(), set()
    try:
        with all_tenants():
            for token in ProviderToken.objects.filter(provider="whatsapp"):
                try:
                    app_secrets.add(token.setting("app_secret"))
                    verify_tokens.add(token.setting("verify_token"))
                except SecretUnreadable:
                    log.exception("webhook secret unreadable", token=token.pk)
    finally:
        connection.close()  # of a thread that may never come back
    return sorted(filter(None, app_secrets)), sorted(filter(None, verify_tokens))
