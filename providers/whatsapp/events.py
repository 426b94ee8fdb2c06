"""What a WhatsApp webhook can tell us, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(slots=True, frozen=True)
class StatusUpdate:
    """A message went one step further, or failed. May come twice, out of order, or before the send's answer.

    `attempt` is what the send gave as its attempt; None when the message was not ours. `billable` is
    None when Meta did not say. Without an error its three fields are "".
    """

    wamid: str
    status: str
    at: datetime
    recipient: str
    attempt: str | None
    phone_number_id: str
    error_code: str = ""
    error_title: str = ""
    error_detail: str = ""
    pricing_category: str = ""
    billable: bool | None = None


@dataclass(slots=True, frozen=True)
class InboundMessage:
    """Somebody wrote. `text` is what they typed or the label they tapped; "" for anything else."""

    wamid: str
    at: datetime
    wa_id: str
    user_id: str
    kind: str
    text: str
    payload: str
    reply_to: str
    phone_number_id: str
    waba_id: str = ""


@dataclass(slots=True, frozen=True)
class TemplateStatus:
    """A template was approved, paused, disabled, reinstated: `event` is Meta's word, in capitals."""

    waba_id: str
    template_id: str
    name: str
    language: str
    event: str
    reason: str
    at: datetime


@dataclass(slots=True, frozen=True)
class TemplateQuality:
    """A template's rating moved: GREEN, YELLOW, RED or UNKNOWN."""

    waba_id: str
    template_id: str
    name: str
    language: str
    previous: str
    current: str
    at: datetime


@dataclass(slots=True, frozen=True)
class NumberQuality:
    """A number's rating, messaging limit or throughput changed (FLAGGED, UPGRADE, THROUGHPUT_UPGRADE …)."""

    waba_id: str
    display_phone_number: str
    event: str
    limit: str
    previous_limit: str
    at: datetime


@dataclass(slots=True, frozen=True)
class AccountUpdate:
    """Something happened to the account. `restricts` says whether sending must stop at once."""

    waba_id: str
    event: str
    display_phone_number: str
    restrictions: tuple[str, ...]
    ban_state: str
    violation: str
    at: datetime

    @property
    def restricts(self) -> bool:
        return (
            bool(self.restrictions)
            or self.ban_state in ("DISABLE", "SCHEDULE_FOR_DISABLE")
            or self.event in ("ACCOUNT_RESTRICTION", "ACCOUNT_DELETED")
        )

    @property
    def reinstates(self) -> bool:
        """Whether Meta lets the account work again."""
        return not self.restricts and self.ban_state == "REINSTATE"


@dataclass(slots=True, frozen=True)
class UserPreference:
    """Somebody chose about a kind of message: `category` is "marketing_messages", `value` "stop" or "resume".

    A person may be known by `user_id` alone; `wa_id` is "" then.
    """

    wa_id: str
    user_id: str
    category: str
    value: str
    phone_number_id: str
    at: datetime
    waba_id: str = ""


@dataclass(slots=True, frozen=True)
class Unknown:
    """Something we do not know, or a known thing without the parts that make it one. Kept as it came."""

    field: str
    raw: Any


Event = (
    StatusUpdate
    | InboundMessage
    | TemplateStatus
    | TemplateQuality
    | NumberQuality
    | AccountUpdate
    | UserPreference
    | Unknown
)
