"""Vendors' webhooks: greet, verify, store, answer. What they mean is worked out later, by the `events` queue.

One receiver for all vendors, at `/webhooks/<vendor>/` and below it; the registry of `providers` says how each
is greeted and verified. It has two faces that share everything but the reading of the request: `Webhooks` on
the event loop, and `webhook_view`, for deployments without the hot intake.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Final
from urllib.parse import parse_qsl

import structlog
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from config.hot import Answer, ClientGone, Receive, Scope, TooLarge, problem, read_body
from engine.clock.schedules import enqueue
from engine.inbox.group_commit import GroupCommit, IntakeDown, IntakeFull, RowRefused
from engine.inbox.receipts import store
from providers.base import BadSignature
from providers.registry import Webhook, WebhookSecrets, load_webhook
from tenants.models import ProviderToken
from tenants.scope import all_tenants
from tenants.secrets import SecretUnreadable

log = structlog.stdlib.get_logger("turnout.webhooks")

PREFIX: Final = "/webhooks/"
KEPT_SECONDS: Final = 30


class Secrets:
    """What tenants and the platform agreed on with vendors for webhooks. One for the process.

    Those of tokens are read every 30 s, so long does a change take. Without a database the last known ones
    serve; the platform's own, of the settings, always do.
    """

    def __init__(self) -> None:
        self._of_tokens: dict[str, Sequence[WebhookSecrets]] = {}
        self._read_at: dict[str, float] = {}
        self._reading = Lock()

    def get(self, vendor: str, webhook: Webhook) -> Sequence[WebhookSecrets]:
        """Return the secrets for a vendor, the platform's first. Reads the database when they are old."""
        if not self.fresh(vendor):
            with self._reading:
                if not self.fresh(vendor):
                    try:
                        self._of_tokens[vendor] = _read(vendor, webhook)
                    except DatabaseError as error:
                        log.warning("webhook secrets not read", provider=vendor, error=str(error).strip())
                    self._read_at[vendor] = time.monotonic()
        own = {name: getattr(settings, setting) for name, setting in webhook.secret_settings.items()}
        return [WebhookSecrets(None, **own), *self._of_tokens.get(vendor, ())]

    async def get_async(self, vendor: str, webhook: Webhook) -> Sequence[WebhookSecrets]:
        """The same on the event loop: a thread reads the database when it must."""
        if self.fresh(vendor):
            return self.get(vendor, webhook)
        return await asyncio.to_thread(self._get_and_close, vendor, webhook)

    def fresh(self, vendor: str) -> bool:
        return time.monotonic() - self._read_at.get(vendor, float("-inf")) < KEPT_SECONDS

    def forget(self) -> None:
        self._read_at.clear()

    def _get_and_close(self, vendor: str, webhook: Webhook) -> Sequence[WebhookSecrets]:
        try:
            return self.get(vendor, webhook)
        finally:
            connection.close()  # of a thread that may never come back


secrets = Secrets()


def _read(vendor: str, webhook: Webhook) -> list[WebhookSecrets]:
    """Read the webhook secrets of every token of a vendor that carries its own."""
    found = []
    with transaction.atomic(), all_tenants():
        for token in ProviderToken.objects.filter(provider=vendor).exclude(sealed_config=""):
            try:
                opened = token.secret_config
            except SecretUnreadable:
                log.exception("webhook secret unreadable", token=token.pk)
                continue
            agreed = {
                name: str(opened.get(setting) or "") for name, setting in webhook.token_settings.items()
            }
            if any(agreed.values()):
                found.append(WebhookSecrets(token.tenant_id, **agreed))
    return found


# -- what both faces do


def find_webhook(path: str) -> tuple[str, Webhook, str] | None:
    """Split the part of an address after the prefix: the vendor, its way in, and the rest. None: nobody's."""
    vendor, _, rest = path.partition("/")
    webhook = load_webhook(vendor)
    return (vendor, webhook, rest.strip("/")) if webhook else None


def greet(webhook: Webhook, params: Mapping[str, str], known: Sequence[WebhookSecrets]) -> Answer:
    """Answer a vendor's handshake."""
    challenge = webhook.greet(params, known)
    if challenge is None:
        return problem(403, "Not the verify token that was agreed")
    return Answer(200, challenge.encode(errors="replace"))


def verify(
    vendor: str,
    webhook: Webhook,
    body: bytes,
    headers: Mapping[str, str],
    rest: str,
    known: Sequence[WebhookSecrets],
) -> tuple[int | None, ...] | Answer:
    """Say for whom a body is to be stored (None: for all, by the platform), or how it is refused."""
    try:
        return webhook.verify(body, headers, rest, known)
    except BadSignature as error:
        log.warning("webhook refused", provider=vendor, reason=str(error), size=len(body))
        return problem(403, f"Refused: {error}")


NOBODYS: Final = problem(404, "No vendor posts here")
WRONG_METHOD: Final = problem(405, "Only GET and POST", allow="GET, POST")


def _too_large(webhook: Webhook) -> Answer:
    return problem(413, f"More than {webhook.body_limit} bytes", connection="close")


# -- on the event loop


class Webhooks:
    """Answers every address below `/webhooks/`, whole paths as they came."""

    def __init__(self, receipts: GroupCommit) -> None:
        self.receipts = receipts

    async def __call__(self, scope: Scope, receive: Receive) -> Answer:
        found = find_webhook(scope["path"].removeprefix(PREFIX))
        if found is None:
            return NOBODYS
        vendor, webhook, rest = found
        if scope["method"] == "GET":
            query = scope["query_string"].decode("latin-1")
            params = dict(parse_qsl(query, keep_blank_values=True))
            return greet(webhook, params, await secrets.get_async(vendor, webhook))
        if scope["method"] != "POST":
            return WRONG_METHOD
        try:
            body = await read_body(scope, receive, webhook.body_limit)
        except TooLarge:
            return _too_large(webhook)
        except ClientGone:
            return problem(400, "The body is not complete")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        signers = verify(vendor, webhook, body, headers, rest, await secrets.get_async(vendor, webhook))
        return signers if isinstance(signers, Answer) else await self.store(vendor, signers, body)

    async def store(self, vendor: str, signers: Sequence[int | None], body: bytes) -> Answer:
        """Store a body once for each signer; answer when all are committed."""
        try:
            await asyncio.gather(
                *(self.receipts.put((vendor, tenant_id, body), size=len(body)) for tenant_id in signers)
            )
        except RowRefused as error:  # its tenant was deleted meanwhile
            return problem(400, f"Cannot be stored: {error}")
        except IntakeFull:
            return problem(503, "Too much is waiting", **{"retry-after": "1"})
        except IntakeDown:
            return problem(503, "The database does not answer", **{"retry-after": "5"})
        return Answer(200)


# -- under WSGI


@csrf_exempt
def webhook_view(request: HttpRequest, path: str) -> HttpResponse:
    """Do the same in Django, for deployments without the hot intake: `path` is what follows the prefix."""
    return _as_django(_answer(request, path))


def _answer(request: HttpRequest, path: str) -> Answer:
    found = find_webhook(path)
    if found is None:
        return NOBODYS
    vendor, webhook, rest = found
    if request.method == "GET":
        return greet(webhook, request.GET.dict(), secrets.get(vendor, webhook))
    if request.method != "POST":
        return WRONG_METHOD
    length = request.headers.get("Content-Length") or "0"
    if not length.isdecimal() or int(length) > webhook.body_limit:
        return _too_large(webhook)
    headers = {name.lower(): value for name, value in request.headers.items()}
    signers = verify(vendor, webhook, request.body, headers, rest, secrets.get(vendor, webhook))
    if isinstance(signers, Answer):
        return signers
    with transaction.atomic():
        for tenant_id in signers:
            store(vendor, request.body, tenant_id=tenant_id)
        enqueue("events")
    return Answer(200)


def _as_django(answer: Answer) -> HttpResponse:
    # `connection` belongs to the server's side of WSGI
    headers = {name: value for name, value in answer.headers.items() if name != "connection"}
    return HttpResponse(answer.body, status=answer.status, content_type=answer.kind, headers=headers)
