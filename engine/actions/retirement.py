"""Take a provider token out of use for good."""

from __future__ import annotations

from django.db import transaction
from django.utils.timezone import now

from engine.models import Lane
from tenants.errors import ActionRefused
from tenants.models import ProviderToken

PAUSE_REASON = "token"  # as for a token that its vendor refuses: resuming is refused until it works


@transaction.atomic
def retire_token(*, token_id: int) -> int:
    """Call a token revoked and let nothing more leave by its lanes; returns how many lanes were stopped.

    What waits on them stays. A new secret brings the token back.
    """
    words = "Retired by our own staff."
    known = ProviderToken.objects.filter(pk=token_id).exclude(state=ProviderToken.State.REVOKED)
    if not known.update(state=ProviderToken.State.REVOKED, last_error=words):
        raise ActionRefused("This token is revoked already, or there is none.")
    stopped: int = Lane.objects.filter(token_id=token_id, paused_at=None).update(
        paused_at=now(), pause_reason=PAUSE_REASON, last_error=words
    )
    return stopped
