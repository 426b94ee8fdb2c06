"""Ask a vendor whether a token still works, and draw the consequences."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.utils.timezone import now

from engine.models import Lane
from engine.watch.incidents import end_incident, open_incident
from providers import base, http
from providers.base import Call, Standing
from tenants.errors import ActionRefused
from tenants.models import ProviderToken
from tenants.scope import all_tenants
from tenants.secrets import SecretUnreadable

DEAD = (Standing.EXPIRED, Standing.REVOKED)
WORKS = (Standing.ACTIVE, Standing.THROTTLED)
PAUSE_REASON = "token"
INCIDENT = "token"  # as the minute's watch calls it

_URLS = {
    "whatsapp": "WHATSAPP_URL",
    "meta": "META_GRAPH_URL",
    "lime": "LIME_URL",
    "apify": "APIFY_URL",
    "youtube": "YOUTUBE_URL",
}
_DETAIL = 500


def check_token(*, token_id: int) -> tuple[Standing, str]:
    """Ask the vendor about one token; returns how it stands and the vendor's words, redacted.

    Makes a network call, so it must not be called inside a transaction: it raises RuntimeError there.
    A dead token pauses its lanes and opens an incident. One that works again ends the incident; its
    lanes stay paused until somebody resumes them. Raises `ActionRefused` when it cannot be asked about.
    """
    if connection.in_atomic_block:
        raise RuntimeError("check_token makes a network call: call it outside any transaction")
    with all_tenants():
        token = ProviderToken.objects.filter(pk=token_id).first()
    if token is None:
        raise ActionRefused(f"There is no provider token {token_id}.")
    call, module = _call(token)
    response = http.send_now(call)
    if not isinstance(response, base.Reply) or response.status >= 500:  # says nothing about the token
        why = f"HTTP {response.status}" if isinstance(response, base.Reply) else response.reason.rstrip(".")
        raise ActionRefused(f"{token} could not be checked, the vendor is away: {why}. Try again later.")
    standing, words = module.read_check(response, secrets=call.secrets)
    detail = base.redact(str(words), call.secrets)[:_DETAIL]
    standing = Standing(standing)
    _settle(token_id, token.sealed_secret, standing, detail)
    return standing, detail


def _call(token: ProviderToken) -> tuple[Call, Any]:
    try:
        module: Any = base.load(token.provider)
        call: Call = module.check_token(
            base_url=getattr(settings, _URLS[token.provider]),
            version=str(token.setting("version") or module.DEFAULT_VERSION),
            token=token.secret,
            object_id=str(token.setting("waba_id") or "me"),
        )
    except base.ProviderError as error:
        raise ActionRefused(f"{token}: {error}.") from error
    except SecretUnreadable as error:
        raise ActionRefused(f"{token}: {error}") from error
    return call, module


def _settle(token_id: int, asked_with: str, standing: Standing, detail: str) -> None:
    """Write down what the vendor said, unless the secret was changed while it was being asked."""
    with transaction.atomic(), all_tenants():
        token = ProviderToken.objects.select_for_update().filter(pk=token_id).first()
        if token is None or token.sealed_secret != asked_with:
            return
        token.state, token.last_error, token.checked_at = standing.value, detail, now()
        token.save(update_fields=["state", "last_error", "checked_at"])
        scope, name = f"token:{token_id}", token.get_provider_display()
        if standing in DEAD:
            Lane.objects.filter(token_id=token_id, paused_at=None).update(
                paused_at=now(), pause_reason=PAUSE_REASON, last_error=detail or standing.value
            )
            open_incident(
                tenant_id=token.tenant_id,
                kind=INCIDENT,
                scope=scope,
                summary=f"the {name} token “{token.label}” is {standing.value}: {detail}",
                severity="critical",
            )
        elif standing in WORKS:
            end_incident(tenant_id=token.tenant_id, kind=INCIDENT, scope=scope)
