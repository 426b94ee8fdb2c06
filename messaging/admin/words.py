"""What states and reasons mean to an operator, and what to do about them."""

from __future__ import annotations

from typing import Any

from messaging.models import Broadcast
from messaging.progress import held_by

Reason = Broadcast.PauseReason

PAUSED_BECAUSE: dict[str, tuple[str, str]] = {
    Reason.OPERATOR: ("Somebody paused it.", "Press Resume when it may go on."),
    Reason.SPAM: (
        "The vendor restricted the number: too many people reported or blocked it.",
        "Look at whom you write to and what. Resume only when the vendor has lifted the restriction.",
    ),
    Reason.FAILURES: (
        "Too many messages failed one after the other.",
        "Put right what the failed messages have in common, then resume and press Retry failed.",
    ),
    Reason.TOKEN: (
        "The vendor no longer takes the token.",
        "Give the provider token a new secret, press Check now on its page, then resume.",
    ),
    Reason.BILLING: (
        "The vendor's account has a billing problem.",
        "Settle it with the vendor, then resume.",
    ),
    Reason.TEMPLATE: (
        "A template was paused or disabled by the vendor.",
        "Wait until it is approved again, or cancel and send another template.",
    ),
    Reason.FAULT: (
        "Our own program failed at it.",
        "Nothing is lost and nothing was sent wrongly. Tell those who run Turnout; resume when it is mended.",
    ),
}


def pause_note(broadcast: Broadcast) -> dict[str, Any] | None:
    """Say why a broadcast stands still, or was ended, and what to do; None while it does not."""
    if held := held_by(broadcast):
        what = f"Nothing goes out: {held}."
        return {
            "what": what,
            "todo": "It goes on by itself when that is over.",
            "detail": "",
            "tone": "warning",
        }
    if broadcast.pause_detail and broadcast.state == Broadcast.State.DRAFT:
        what = "It could not be launched at its time."
        return {"what": what, "todo": broadcast.pause_detail, "detail": "", "tone": "warning"}
    if broadcast.pause_detail and broadcast.state == Broadcast.State.CANCELLED:
        return {"what": broadcast.pause_detail, "todo": "", "detail": "", "tone": "warning"}
    if broadcast.state != Broadcast.State.PAUSED:
        return None
    what, advice = PAUSED_BECAUSE[broadcast.pause_reason]
    tone = "warning" if broadcast.pause_reason == Reason.OPERATOR else "danger"
    return {"what": what, "todo": advice, "detail": broadcast.pause_detail, "tone": tone}


def audience_in_words(audience: dict[str, Any], segment_name: str = "") -> str:
    """Say who is meant."""
    if audience.get("all"):
        return "All contacts"
    if "segment" in audience:
        return f"The segment “{segment_name or audience['segment']}”"
    named = audience.get("contacts", [])
    shown = ", ".join(named[:5])
    return f"{len(named):,} contacts by name: {shown}{' …' if len(named) > 5 else ''}"


def excluded_in_words(excluded: dict[str, int]) -> list[tuple[str, int]]:
    """List why contacts were left out, the most frequent first."""
    counted = sorted(excluded.items(), key=lambda pair: -pair[1])
    return [(reason.replace("_", " "), n) for reason, n in counted if n]
