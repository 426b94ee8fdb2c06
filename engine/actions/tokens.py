"""Ask a vendor whether a token works and for which accounts, draw the consequences; take one out of use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import structlog
from django.conf import settings
from django.db import connection, transaction
from django.utils.timezone import now

from engine.models import Lane
from engine.watch.incidents import end_incident, open_incident
from providers import base, http
from providers.base import Call, ProviderError, Reply, Response, Standing
from providers.registry import Proof, Provider, find_vendor, load_provider
from tenants.errors import ActionRefused
from tenants.models import ProviderToken, VendorAccount
from tenants.scope import all_tenants
from tenants.secrets import SecretUnreadable

log = structlog.stdlib.get_logger("turnout.tokens")

DEAD = (Standing.EXPIRED, Standing.REVOKED)
WORKS = (Standing.ACTIVE, Standing.THROTTLED)
PAUSE_REASON = "token"
INCIDENT = "token"  # as the minute's watch calls it

NEW_AT_ONCE: Final = 20
NEW_SECONDS: Final = 30.0
"""How many new tokens a minute's round asks about, and for how long it begins with another."""
_DETAIL = 500


def check_token(*, token_id: int) -> tuple[Standing, str]:
    """Ask the vendor about one token and the accounts it claims; returns how it stands and why, redacted.

    Makes network calls, so it must not be called inside a transaction: it raises RuntimeError there.
    A dead token pauses its lanes and opens an incident. One that works again ends the incident; its
    lanes stay paused until somebody resumes them. An account that the vendor lets a working token work for is
    the token's tenant's from then on (`VendorAccount`), and its notices by webhook reach nobody else.
    Raises `ActionRefused` when the token cannot be asked about, and when an account that it claims belongs to
    another tenant.
    """
    if connection.in_atomic_block:
        raise RuntimeError("check_token makes a network call: call it outside any transaction")
    with all_tenants():
        token = ProviderToken.objects.filter(pk=token_id).first()
    if token is None:
        raise ActionRefused(f"There is no provider token {token_id}.")
    if token.retired_at:
        raise ActionRefused(f"{token} is retired: give it a new secret to use it again.")
    try:
        standing, detail, proofs = _ask(token)
    except ProviderError as error:
        raise ActionRefused(f"{token}: {error}.") from error
    except SecretUnreadable as error:
        raise ActionRefused(f"{token}: {error}") from error
    taken = _settle(token, standing, detail, proofs)
    if taken:
        raise ActionRefused(f"{token}: {_taken(taken)}")
    return standing, detail


@transaction.atomic
def retire_token(*, token_id: int) -> int:
    """Take a token out of use, so that nothing more leaves by its lanes; returns how many that stops.

    It is no incident, and nobody asks the vendor about it any more. What waits on its lanes stays. A new
    secret brings it back.
    """
    words = "Retired by our own staff."
    known = ProviderToken.objects.filter(pk=token_id, retired_at=None)
    if not known.update(state=ProviderToken.State.REVOKED, retired_at=now(), last_error=words):
        raise ActionRefused("This token is retired already, or there is none.")
    end_incident(
        tenant_id=ProviderToken.objects.values_list("tenant_id", flat=True).get(pk=token_id),
        kind=INCIDENT,
        scope=f"token:{token_id}",
    )
    stopped: int = Lane.objects.filter(token_id=token_id, paused_at=None).update(
        paused_at=now(), pause_reason=PAUSE_REASON, last_error=words
    )
    return stopped


def check_new_tokens() -> int:
    """Ask about the tokens that nobody has asked about yet; returns how many there were. Run every minute.

    One that cannot be asked about is not tried again by itself: its `last_error` says why.
    """
    with all_tenants():
        new = list(ProviderToken.objects.filter(checked_at=None).order_by("pk").values_list("pk", flat=True))[
            :NEW_AT_ONCE
        ]
    began = time.monotonic()
    asked = 0
    for token_id in new:
        if time.monotonic() - began > NEW_SECONDS:
            break
        asked += 1
        try:
            check_token(token_id=token_id)
        except ActionRefused as error:
            log.warning("new token not checked", token=token_id, reason=str(error))
            with all_tenants():
                ProviderToken.objects.filter(pk=token_id, checked_at=None).update(
                    checked_at=now(), last_error=str(error)[:_DETAIL]
                )
    return asked


def _ask(token: ProviderToken) -> tuple[Standing, str, list[Proof]]:
    """Make the calls: the token's standing with the vendor's words, and a proof for each account claimed."""
    vendor, provider = find_vendor(token.provider), load_provider(token.provider)
    where = {
        "base_url": getattr(settings, vendor.url_settings[0]),
        "version": str(token.setting("version") or vendor.default_version),
        "token": token.secret,
    }
    accounts = provider.accounts(token.config)
    call = provider.check_token(**where, config=token.config)
    response = http.send_now(call)
    if not isinstance(response, Reply) or response.status >= 500:  # says nothing about the token
        why = f"HTTP {response.status}" if isinstance(response, Reply) else response.reason.rstrip(".")
        raise ActionRefused(f"{token} could not be checked, the vendor is away: {why}. Try again later.")
    standing, words = provider.read_check(response, secrets=call.secrets)
    proofs = []
    if standing in WORKS:
        proofs = [
            _prove(provider, account_id, provider.prove_account(**where, account_id=account_id))
            for account_id in accounts
        ]
    unproved = [
        f"account {proof.account_id} is not proved: {proof.detail}" for proof in proofs if not proof.proved
    ]
    detail = base.clean("; ".join(filter(None, [words, *unproved])), _DETAIL, call.secrets)
    return Standing(standing), detail, proofs


def _prove(provider: Provider, account_id: str, calls: Sequence[Call]) -> Proof:
    responses: list[Response] = [http.send_now(call) for call in calls]
    return provider.read_proof(responses, account_id=account_id, secrets=calls[0].secrets)


def _settle(asked: ProviderToken, standing: Standing, detail: str, proofs: Sequence[Proof]) -> list[str]:
    """Write down what the vendor said, unless the token was changed or retired while it was being asked.

    Returns the accounts that are proved and belong to another tenant: those stay as they are.
    """
    with transaction.atomic(), all_tenants():
        token = ProviderToken.objects.select_for_update().filter(pk=asked.pk).first()
        if token is None or token.retired_at or token.sealed_secret != asked.sealed_secret:
            return []
        proved = sorted(proof.account_id for proof in proofs if proof.proved)
        taken = [account_id for account_id in proved if not _own(token, account_id)]
        token.state, token.checked_at = standing.value, now()
        token.last_error = "; ".join(filter(None, [detail, _taken(taken) if taken else ""]))[:_DETAIL]
        token.save(update_fields=["state", "last_error", "checked_at"])
        scope, name = f"token:{token.pk}", token.get_provider_display()
        if standing in DEAD:
            Lane.objects.filter(token_id=token.pk, paused_at=None).update(
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
        return taken


def _own(token: ProviderToken, account_id: str) -> bool:
    """Make a proved account the token's tenant's; False when it is another's, who still claims it.

    Two tenants may have access to one account at the vendor: the first to prove it keeps it for as long as a
    token of theirs names it.
    """
    account, new = VendorAccount.objects.select_for_update().get_or_create(
        provider=token.provider, account_id=account_id, defaults={"tenant_id": token.tenant_id}
    )
    if new:
        return True
    if account.tenant_id != token.tenant_id and _claimed(account):
        return False
    account.tenant_id, account.proved_at = token.tenant_id, now()
    account.save(update_fields=["tenant_id", "proved_at"])
    return True


def _claimed(account: VendorAccount) -> bool:
    """Whether a token of the account's tenant still names it."""
    provider = load_provider(account.provider)
    for token in ProviderToken.objects.filter(provider=account.provider, tenant_id=account.tenant_id):
        try:
            if account.account_id in provider.accounts(token.config):
                return True
        except ProviderError:
            continue  # claims nothing that could be an account
    return False


def _taken(account_ids: Sequence[str]) -> str:
    return (
        f"account {', '.join(account_ids)} belongs to another tenant, who proved it before. Take it out of "
        "this token's settings, or ask the platform's staff whose it is."
    )
