"""WhatsApp's webhooks: who may sign them, and the way in for deployments without the hot intake."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import orjson
import structlog
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from engine.clock.schedules import enqueue
from engine.inbox.receipts import store
from messaging.models import Sender
from providers.base import BadSignature
from providers.whatsapp import BODY_LIMIT, SIGNATURE_HEADER, handshake, verify
from tenants.models import ProviderToken
from tenants.scope import all_tenants
from tenants.secrets import SecretUnreadable

log = structlog.stdlib.get_logger("turnout.webhooks")

KEPT_SECONDS: Final = 30


@dataclass(slots=True, frozen=True)
class TenantApp:
    """An app of a tenant's own, and what it may speak of."""

    app_secret: str
    verify_token: str
    waba_ids: frozenset[str]
    addresses: frozenset[str]


class TenantApps:
    """The apps that tenants brought, read every 30 s: so long does a change take."""

    def __init__(self) -> None:
        self._apps: list[TenantApp] = []
        self._read_at = float("-inf")
        self._reading = Lock()

    def get(self) -> Sequence[TenantApp]:
        if time.monotonic() - self._read_at >= KEPT_SECONDS:
            with self._reading:
                if time.monotonic() - self._read_at >= KEPT_SECONDS:
                    self._apps = read_tenant_apps()
                    self._read_at = time.monotonic()
        return self._apps

    def forget(self) -> None:
        self._read_at = float("-inf")


tenant_apps = TenantApps()


def read_tenant_apps() -> list[TenantApp]:
    """Read the apps of every WhatsApp token that carries its own secrets."""
    found = []
    with transaction.atomic(), all_tenants():
        for token in ProviderToken.objects.filter(provider="whatsapp").exclude(sealed_config=""):
            try:
                secrets = token.secret_config
            except SecretUnreadable:
                log.exception("webhook secret unreadable", token=token.pk)
                continue
            addresses = Sender.objects.filter(provider_token_id=token.pk).values_list("address", flat=True)
            found.append(
                TenantApp(
                    app_secret=secrets.get("app_secret") or "",
                    verify_token=secrets.get("verify_token") or "",
                    waba_ids=frozenset({str(token.config.get("waba_id") or "")} - {""}),
                    addresses=frozenset(addresses),
                )
            )
    return found


def verify_whatsapp(body: bytes, header: str | None, apps: Sequence[TenantApp] | None = None) -> None:
    """Refuse, by raising BadSignature, what was not signed by the platform's app or by a tenant's for itself.

    A tenant that signs with a secret of its own could sign anything: its notices may only be about its
    own accounts and numbers.
    """
    apps = tenant_apps.get() if apps is None else apps
    try:
        verify(body, header, [settings.META_APP_SECRET])
    except BadSignature:
        verify(body, header, [app.app_secret for app in apps])
    else:
        return
    signers = [app for app in apps if app.app_secret and _signed(body, header, app.app_secret)]
    check_subjects(
        body,
        waba_ids=frozenset().union(*(app.waba_ids for app in signers)),
        addresses=frozenset().union(*(app.addresses for app in signers)),
    )


def check_subjects(body: bytes, *, waba_ids: frozenset[str], addresses: frozenset[str]) -> None:
    """Refuse a body that speaks of an account or a number that is not among these."""
    try:
        entries = orjson.loads(body)["entry"]
        about = {str(entry["id"]) for entry in entries}
        numbers = {str(number) for entry in entries for number in _numbers(entry)}
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise BadSignature("a tenant's own app signed it, and it does not say what it is about") from error
    if not about <= waba_ids or not numbers <= addresses:
        raise BadSignature("signed by a tenant's own app, and about somebody else's account")


def _numbers(entry: dict[str, Any]) -> list[Any]:
    values = [change["value"] for change in entry["changes"]]
    return [value["metadata"]["phone_number_id"] for value in values if "metadata" in value]


def _signed(body: bytes, header: str | None, secret: str) -> bool:
    try:
        verify(body, header, [secret])
    except BadSignature:
        return False
    return True


@csrf_exempt
@require_http_methods(["GET", "POST"])
def whatsapp_webhook(request: HttpRequest) -> HttpResponse:
    """Greet Meta, or store what it posts and answer once it is committed. The hot intake does the same."""
    if request.method == "GET":
        for token in (settings.META_VERIFY_TOKEN, *(app.verify_token for app in tenant_apps.get())):
            challenge = handshake(request.GET, token)
            if challenge is not None:
                return HttpResponse(challenge, content_type="text/plain")
        return HttpResponse("Not the verify token that was agreed", status=403, content_type="text/plain")
    if int(request.headers.get("Content-Length") or 0) > BODY_LIMIT:
        return HttpResponse("More than 3 MB", status=413, content_type="text/plain")
    try:
        verify_whatsapp(request.body, request.headers.get(SIGNATURE_HEADER))
    except BadSignature as error:
        log.warning("webhook refused", provider="whatsapp", reason=str(error), size=len(request.body))
        return HttpResponse(f"Refused: {error}", status=403, content_type="text/plain")
    with transaction.atomic():
        store("whatsapp", request.body)
        enqueue("events")
    return HttpResponse(status=200, content_type="text/plain")
