"""Take what Meta posts: check who it is from, then read it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from providers.base import BadSignature, Unreadable
from providers.whatsapp.events import (
    AccountUpdate,
    Event,
    InboundMessage,
    NumberQuality,
    StatusUpdate,
    TemplateQuality,
    TemplateStatus,
    Unknown,
    UserPreference,
)

# Meta's own limit for one POST.
BODY_LIMIT = 3 * 1024 * 1024
SIGNATURE_HEADER = "x-hub-signature-256"


def sign(body: bytes, secret: str) -> str:
    """Sign a body as Meta does: the value of `X-Hub-Signature-256`."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def verify(body: bytes, header: str | None, secrets: Sequence[str]) -> None:
    """Refuse a body that none of `secrets` signed, by raising BadSignature.

    `body` must be the bytes as they came. Empty secrets are passed over: with none left, everything is
    refused. Compares in constant time.
    """
    if not header:
        raise BadSignature("no signature")
    given = header.encode()
    fits = False
    for secret in secrets:
        if secret:
            fits |= hmac.compare_digest(sign(body, secret).encode(), given)
    if not fits:
        raise BadSignature("the signature does not fit the body")


def handshake(params: Mapping[str, str], verify_token: str) -> str | None:
    """Answer Meta's GET: the challenge to send back as plain text, or None to refuse."""
    token = params.get("hub.verify_token", "")
    if params.get("hub.mode") != "subscribe" or not verify_token:
        return None
    return params.get("hub.challenge") if hmac.compare_digest(token.encode(), verify_token.encode()) else None


def parse_webhook(body: bytes, *, received_at: datetime | None = None) -> list[Event]:
    """Read one POST, up to 1,000 updates, into events in the order they stand.

    What is not known becomes `Unknown`; only a body that is no JSON object raises Unreadable. An update
    without a readable time counts as of `received_at` (now, when not given).
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"not JSON: {error}") from None
    if b"\\u0000" in body:  # legal in JSON, impossible in PostgreSQL's text
        data = _without_nul(data)
    if not isinstance(data, dict):
        raise Unreadable("not a JSON object")
    now = received_at or datetime.now(UTC)
    if data.get("object") != "whatsapp_business_account":
        return [Unknown(_text(data.get("object")), data)]
    events: list[Event] = []
    for entry in _dicts(data.get("entry")):
        waba_id = _text(entry.get("id"))
        at = _time(entry.get("time"), now)
        for change in _dicts(entry.get("changes")):
            field, value = _text(change.get("field")), change.get("value")
            read = _READERS.get(field)
            if read is None or not isinstance(value, dict):
                events.append(Unknown(field, value))
            else:
                events.extend(read(value, waba_id, at))
    return events


def _read_messages(value: dict[str, Any], waba_id: str, now: datetime) -> Iterator[Event]:
    phone_number_id = _text(_dict(value.get("metadata")).get("phone_number_id"))
    for status in _list(value.get("statuses")):
        yield _read_status(status, phone_number_id, now)
    contacts = {_text(contact.get("wa_id")): contact for contact in _dicts(value.get("contacts"))}
    for message in _list(value.get("messages")):
        yield _read_inbound(message, phone_number_id, contacts, now)
    for error in _list(value.get("errors")):
        yield Unknown("messages.errors", error)


def _read_status(raw: Any, phone_number_id: str, now: datetime) -> Event:
    try:
        wamid, status = raw["id"], raw["status"]
        if not (isinstance(wamid, str) and isinstance(status, str) and wamid and status):
            return Unknown("messages.statuses", raw)
    except (KeyError, TypeError):
        return Unknown("messages.statuses", raw)
    attempt = raw.get("biz_opaque_callback_data")
    code = title = detail = ""
    if errors := raw.get("errors"):
        error = errors[0] if isinstance(errors, list) and isinstance(errors[0], dict) else {}
        code = _text(error.get("code"))
        title = _text(error.get("title") or error.get("message"))
        detail = _text(_dict(error.get("error_data")).get("details") or error.get("message"))
    pricing = raw.get("pricing")
    category, billable = "", None
    if isinstance(pricing, dict):
        category = _text(pricing.get("category"))
        billable = pricing.get("billable")
    return StatusUpdate(
        wamid,
        status,
        _time(raw.get("timestamp"), now),
        _text(raw.get("recipient_id")),
        attempt if isinstance(attempt, str) and attempt else None,
        phone_number_id,
        code,
        title,
        detail,
        category,
        billable if isinstance(billable, bool) else None,
    )


def _read_inbound(
    raw: Any, phone_number_id: str, contacts: Mapping[str, dict[str, Any]], now: datetime
) -> Event:
    if not isinstance(raw, dict) or not _text(raw.get("id")):
        return Unknown("messages.messages", raw)
    wa_id, kind = _text(raw.get("from")), _text(raw.get("type"))
    user_id = _text(raw.get("from_user_id") or raw.get("user_id") or contacts.get(wa_id, {}).get("user_id"))
    content = _dict(raw.get(kind))
    reply = _dict(content.get("button_reply") or content.get("list_reply"))
    return InboundMessage(
        wamid=_text(raw["id"]),
        at=_time(raw.get("timestamp"), now),
        wa_id=wa_id,
        user_id=user_id,
        kind=kind,
        text=_text(content.get("body") or content.get("text") or reply.get("title")),
        payload=_text(content.get("payload") or reply.get("id")),
        reply_to=_text(_dict(raw.get("context")).get("id")),
        phone_number_id=phone_number_id,
    )


def _read_template_status(value: dict[str, Any], waba_id: str, at: datetime) -> Iterator[Event]:
    if not (event := _text(value.get("event"))):
        yield Unknown("message_template_status_update", value)
        return
    yield TemplateStatus(
        waba_id=waba_id,
        template_id=_text(value.get("message_template_id")),
        name=_text(value.get("message_template_name")),
        language=_text(value.get("message_template_language")),
        event=event,
        reason=_text(value.get("reason")),
        at=at,
    )


def _read_template_quality(value: dict[str, Any], waba_id: str, at: datetime) -> Iterator[Event]:
    yield TemplateQuality(
        waba_id=waba_id,
        template_id=_text(value.get("message_template_id")),
        name=_text(value.get("message_template_name")),
        language=_text(value.get("message_template_language")),
        previous=_text(value.get("previous_quality_score")),
        current=_text(value.get("new_quality_score")),
        at=at,
    )


def _read_number_quality(value: dict[str, Any], waba_id: str, at: datetime) -> Iterator[Event]:
    yield NumberQuality(
        waba_id=waba_id,
        display_phone_number=_text(value.get("display_phone_number")),
        event=_text(value.get("event")),
        limit=_text(value.get("current_limit") or value.get("max_daily_conversations_per_business")),
        previous_limit=_text(value.get("old_limit")),
        at=at,
    )


def _read_account(value: dict[str, Any], waba_id: str, at: datetime) -> Iterator[Event]:
    yield AccountUpdate(
        waba_id=_text(_dict(value.get("waba_info")).get("waba_id")) or waba_id,
        event=_text(value.get("event")),
        display_phone_number=_text(value.get("phone_number")),
        restrictions=tuple(
            _text(item.get("restriction_type")) for item in _dicts(value.get("restriction_info"))
        ),
        ban_state=_text(_dict(value.get("ban_info")).get("waba_ban_state")),
        violation=_text(_dict(value.get("violation_info")).get("violation_type")),
        at=at,
    )


def _read_preferences(value: dict[str, Any], waba_id: str, at: datetime) -> Iterator[Event]:
    phone_number_id = _text(_dict(value.get("metadata")).get("phone_number_id"))
    for raw in _list(value.get("user_preferences")):
        item = _dict(raw)
        wa_id, user_id = _text(item.get("wa_id")), _text(item.get("user_id"))
        if not (wa_id or user_id):
            yield Unknown("user_preferences", raw)
            continue
        yield UserPreference(
            wa_id=wa_id,
            user_id=user_id,
            category=_text(item.get("category")),
            value=_text(item.get("value")),
            phone_number_id=phone_number_id,
            at=_time(item.get("timestamp"), at),
        )


Reader = Callable[[dict[str, Any], str, datetime], Iterator[Event]]

_READERS: dict[str, Reader] = {
    "messages": _read_messages,
    "message_template_status_update": _read_template_status,
    "message_template_quality_update": _read_template_quality,
    "phone_number_quality_update": _read_number_quality,
    "account_update": _read_account,
    "user_preferences": _read_preferences,
}


def _time(value: Any, fallback: datetime) -> datetime:
    """Read Meta's seconds since 1970, a number or its digits. 0, nonsense and the far future fall back."""
    try:
        return datetime.fromtimestamp(int(value), UTC) if value else fallback
    except (ValueError, TypeError, OverflowError, OSError):
        return fallback


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, list):
        return [_without_nul(item) for item in value]
    if isinstance(value, dict):
        return {_without_nul(name): _without_nul(item) for name, item in value.items()}
    return value
