"""What decides about a broadcast without asking anybody: tables, so that changing a rule is one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from messaging.models import Broadcast, MessageTemplate
from providers.whatsapp import CONTENT_CODES, ECOSYSTEM_CODES, ERRORS, ErrorClass

Reason = Broadcast.PauseReason
TemplateState = MessageTemplate.State


@dataclass(slots=True, frozen=True)
class FailureRule:
    """Pause when failures pass `over` (a share) of at least `window` messages decided since the window began.

    `codes` are the failures that count, None for all of them. With `rising`, the share must also be larger
    than in the window before. A rule that `stops_step` leaves the other steps going.
    """

    name: str
    window: int
    over: float
    reason: str = Reason.FAILURES
    codes: frozenset[str] | None = None
    rising: bool = False
    stops_step: bool = False


WINDOW: Final = 50
"""After so many decided messages without a reason to pause, the next window begins."""

FAILURE_RULES: Final = (
    # the text is at fault, whoever it is for: the other templates may be fine
    FailureRule(
        "content", window=20, over=0.99, codes=CONTENT_CODES, reason=Reason.TEMPLATE, stops_step=True
    ),
    FailureRule("success", window=WINDOW, over=0.20),
    # Meta holds marketing back more and more: going on costs the number its rating
    FailureRule("ecosystem", window=WINDOW, over=0.10, codes=ECOSYSTEM_CODES, rising=True),
)

NOT_SENT: Final = "not_sent"
"""The code of a message in doubt that an operator declared unsent."""

_RETRYABLE_CLASSES = frozenset(
    {
        ErrorClass.TRANSIENT,
        ErrorClass.THROUGHPUT,
        ErrorClass.CALL_LIMIT,
        ErrorClass.PAIR,
        ErrorClass.MEDIA,
        # somebody has acted meanwhile, or it fails again and holds again
        ErrorClass.RESTRICTED,
        ErrorClass.TEMPLATE,
        ErrorClass.CREDENTIALS,
        ErrorClass.BILLING,
    }
)
RETRYABLE_CODES: Final = frozenset(
    {str(code) for code, (kind, _) in ERRORS.items() if kind in _RETRYABLE_CLASSES}
    | {"unsent", "http_429", "http_401", NOT_SENT}
)
"""Failures that may go better another time. Recipients who cannot or must not get it are not among them."""

# What a failure told by webhook holds: (pause reason, whether the whole token is meant and not its number).
HOLDING_CLASSES: Final = {
    ErrorClass.RESTRICTED: (Reason.SPAM, False),
    ErrorClass.CREDENTIALS: (Reason.TOKEN, True),
    ErrorClass.BILLING: (Reason.BILLING, True),
}

# The code of a refusal says what has become of the template.
TEMPLATE_STATE_BY_CODE: Final = {
    "132001": TemplateState.REJECTED,
    "132007": TemplateState.REJECTED,
    "132015": TemplateState.PAUSED,
    "132016": TemplateState.DISABLED,
}

# Meta's words in message_template_status_update. FLAGGED is a warning and changes nothing yet.
TEMPLATE_STATE_BY_EVENT: Final = {
    "APPROVED": TemplateState.APPROVED,
    "REINSTATED": TemplateState.APPROVED,
    "UNPAUSED": TemplateState.APPROVED,
    "PENDING": TemplateState.PENDING,
    "IN_APPEAL": TemplateState.PENDING,
    "REJECTED": TemplateState.REJECTED,
    "PAUSED": TemplateState.PAUSED,
    "DISABLED": TemplateState.DISABLED,
    "PENDING_DELETION": TemplateState.DISABLED,
    "DELETED": TemplateState.DISABLED,
    "ARCHIVED": TemplateState.DISABLED,
}

STOP_WORDS: Final = frozenset({"STOP", "STOPALL", "UNSUBSCRIBE", "END", "QUIT", "REVOKE", "OPTOUT", "CANCEL"})
START_WORDS: Final = frozenset({"START", "UNSTOP"})
WROTE_STOP: Final = "wrote STOP"
MARKETING_STOP: Final = "opted out of marketing"
"""Reasons of suppressions that the person chose, and so can take back; the others are the tenant's."""
