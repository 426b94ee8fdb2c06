"""What every webhook of Meta's has: a handshake, a signature over the raw bytes, and one size limit."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from providers.base import BadSignature
from providers.registry import WebhookSecrets

# Meta's own limit for one POST, in bytes.
BODY_LIMIT = 3 * 1024 * 1024
SIGNATURE_HEADER = "x-hub-signature-256"


def sign(body: bytes, secret: str) -> str:
    """Sign a body as Meta does: the value of `X-Hub-Signature-256`."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def verify(body: bytes, header: str | None, secrets: Sequence[str]) -> tuple[int, ...]:
    """Return the places in `secrets` of those that signed `body`; raises BadSignature when none did.

    `body` must be the bytes as they came. Empty secrets are passed over: with none left, everything is
    refused. Compares in constant time.
    """
    if not header:
        raise BadSignature("no signature")
    given = header.encode(errors="surrogatepass")
    signers = tuple(
        place
        for place, secret in enumerate(secrets)
        if secret and hmac.compare_digest(sign(body, secret).encode(), given)
    )
    if not signers:
        raise BadSignature("the signature does not fit the body")
    return signers


def handshake(params: Mapping[str, str], verify_token: str) -> str | None:
    """Answer Meta's GET: the challenge to send back as plain text, or None to refuse."""
    token = params.get("hub.verify_token", "")
    if params.get("hub.mode") != "subscribe" or not verify_token:
        return None
    fits = hmac.compare_digest(token.encode(errors="surrogatepass"), verify_token.encode())
    return params.get("hub.challenge") if fits else None


class SignedWebhook:
    """The way in of a Meta API: greeted with a verify token, signed with an app's secret."""

    body_limit = BODY_LIMIT
    secret_settings: Mapping[str, str] = {"secret": "META_APP_SECRET", "verify_token": "META_VERIFY_TOKEN"}
    token_settings: Mapping[str, str] = {"secret": "app_secret", "verify_token": "verify_token"}

    def greet(self, params: Mapping[str, str], secrets: Sequence[WebhookSecrets]) -> str | None:
        """Answer the handshake with the challenge when somebody agreed on its verify token."""
        for known in secrets:
            challenge = handshake(params, known.verify_token)
            if challenge is not None:
                return challenge
        return None

    def verify(
        self, body: bytes, headers: Mapping[str, str], path_rest: str, secrets: Sequence[WebhookSecrets]
    ) -> tuple[int | None, ...]:
        """Say whose apps signed the body: tenants' ids, or (None,) for the platform, which speaks for all."""
        if path_rest:
            raise BadSignature("there is nothing at this address")
        signed = verify(body, headers.get(SIGNATURE_HEADER), [known.secret for known in secrets])
        tenants = {secrets[place].tenant_id for place in signed}
        return (None,) if None in tenants else tuple(sorted(one for one in tenants if one is not None))
