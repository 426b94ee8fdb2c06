"""What each WhatsApp error code means for us: data, so that a new code is one line.

Codes come synchronously in a send's answer or later in a status webhook; both are judged by the
same table. Source: Meta's Cloud API error reference, as collected in November 2026.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorClass(StrEnum):
    """What an error code is about, and so who or what has to wait, change or stop."""

    TRANSIENT = "transient"  # Meta's side, for now
    THROUGHPUT = "throughput"  # the number sends too fast
    CALL_LIMIT = "call_limit"  # the app or account calls too often
    PAIR = "pair"  # too many to this one recipient
    RESTRICTED = "restricted"  # the number or account is being punished
    ECOSYSTEM = "ecosystem"  # Meta chose not to deliver; not again within 24 hours
    RECIPIENT = "recipient"  # this person cannot get it
    TEMPLATE = "template"  # the template is gone, paused or disabled: true for everybody
    CONTENT = "content"  # this message does not fit the template or the API
    MEDIA = "media"  # a media id expired or cannot be fetched
    CREDENTIALS = "credentials"  # token, permission or registration
    BILLING = "billing"  # somebody must pay
    UNKNOWN = "unknown"  # no code we know


_T, _R, _C, _K = ErrorClass.TRANSIENT, ErrorClass.RECIPIENT, ErrorClass.CONTENT, ErrorClass.CREDENTIALS

ERRORS: dict[int, tuple[ErrorClass, str]] = {
    0: (_K, "The token could not be authenticated"),
    1: (_T, "Unknown error at Meta"),
    2: (_T, "Meta's service is down for the moment"),
    3: (_K, "The app lacks the capability for this call"),
    4: (ErrorClass.CALL_LIMIT, "The app has reached its call limit"),
    10: (_K, "Permission not granted or removed"),
    100: (_C, "Invalid parameter"),
    190: (_K, "The access token has expired or was revoked"),
    368: (ErrorClass.RESTRICTED, "Blocked for policy violations"),
    80007: (ErrorClass.CALL_LIMIT, "The WhatsApp Business Account has reached its call limit"),
    130403: (_R, "The recipient may not be messaged from this number"),
    130429: (ErrorClass.THROUGHPUT, "The number's message throughput is reached"),
    130472: (ErrorClass.ECOSYSTEM, "The recipient is part of an experiment and gets no marketing"),
    130497: (ErrorClass.RESTRICTED, "The account may not message people in this country"),
    131000: (_T, "Something went wrong at Meta"),
    131005: (_K, "Access denied"),
    131008: (_C, "A required parameter is missing"),
    131009: (_C, "A parameter's value is not valid"),
    131016: (_T, "The service is unavailable for the moment"),
    131021: (_R, "The recipient is the sender"),
    131026: (_R, "Undeliverable: no WhatsApp account, or an outdated app"),
    131031: (ErrorClass.RESTRICTED, "The account is locked"),
    131042: (ErrorClass.BILLING, "A problem with the payment method"),
    131045: (_K, "The number is not registered correctly"),
    131047: (_R, "More than 24 hours since the recipient last wrote"),
    131048: (ErrorClass.RESTRICTED, "Limited because of spam reports"),
    131049: (ErrorClass.ECOSYSTEM, "Not delivered, to keep the ecosystem healthy"),
    131050: (_R, "The recipient has opted out of marketing messages"),
    131051: (_C, "The message type is not supported"),
    131052: (ErrorClass.MEDIA, "The media could not be downloaded"),
    131053: (ErrorClass.MEDIA, "The media could not be uploaded"),
    131056: (ErrorClass.PAIR, "Too many messages to this recipient"),
    131057: (_T, "The account is in maintenance"),
    131064: (ErrorClass.RESTRICTED, "The account is restricted from sending"),
    132000: (_C, "The number of parameters does not match the template"),
    132001: (ErrorClass.TEMPLATE, "The template does not exist in this language"),
    132005: (_C, "The filled-in template is too long"),
    132007: (ErrorClass.TEMPLATE, "The template breaks a content policy"),
    132012: (_C, "A parameter's format does not match the template"),
    132015: (ErrorClass.TEMPLATE, "The template is paused for low quality"),
    132016: (ErrorClass.TEMPLATE, "The template is disabled for low quality"),
    132018: (_C, "A parameter of the template is not valid"),
    132068: (_C, "The flow is blocked"),
    132069: (_C, "The flow is throttled"),
    133000: (_K, "An earlier deregistration of the number is incomplete"),
    133004: (_T, "The registration server is unavailable for the moment"),
    133005: (_K, "The two-step PIN does not match"),
    133006: (_K, "The number must be verified again"),
    133008: (_K, "Too many wrong two-step PINs"),
    133009: (_K, "The two-step PIN was entered too fast"),
    133010: (_K, "The number is not registered"),
    133015: (_K, "The number was deleted a moment ago; wait before registering it"),
}
ERRORS.update((code, (_K, "Permission missing")) for code in range(200, 300))

MARKETING_OPT_OUT = 131050


def _of(*classes: ErrorClass) -> frozenset[str]:
    return frozenset(str(code) for code, (kind, _) in ERRORS.items() if kind in classes)


# As text, as outcomes and webhooks carry them. Several in a row: the step's content is at fault.
CONTENT_CODES = _of(ErrorClass.CONTENT, ErrorClass.TEMPLATE)
# A rising share of these is a reason to pause the broadcast.
ECOSYSTEM_CODES = _of(ErrorClass.ECOSYSTEM)
# These mean that the whole number must stop at once.
RESTRICTED_CODES = _of(ErrorClass.RESTRICTED)


def classify(code: int | str | None) -> ErrorClass:
    """Say what a code is about. Anything that is no known code is `UNKNOWN`, never an error."""
    return ERRORS.get(_number(code), _NOTHING)[0]


def title(code: int | str | None) -> str:
    """Say in a few words what a code means, for people; "" when we do not know it."""
    return ERRORS.get(_number(code), _NOTHING)[1]


def is_marketing_opt_out(code: int | str | None) -> bool:
    """Whether the recipient said no to marketing, which must be remembered as a suppression."""
    return _number(code) == MARKETING_OPT_OUT


_NOTHING = (ErrorClass.UNKNOWN, "")


def _number(code: int | str | None) -> int:
    if isinstance(code, str):
        return int(code) if code.isascii() and code.isdigit() and len(code) < 10 else -1
    return -1 if code is None else code
