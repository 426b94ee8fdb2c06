"""Read what Meta posts, whatever stands in it: ids that do not fit are empty, texts are cleaned and cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from providers.base import Unreadable, clean, clean_json, identifier, parse_json
from providers.meta.graph import CODE_LENGTH, DETAIL_LENGTH
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
from providers.whatsapp.send import WAMID_LENGTH

NAME_LENGTH = 512
WORD_LENGTH = 64
USER_ID_LENGTH = 128
ATTEMPT_LENGTH = 256
"""Characters of ids, numbers and vendors' words; a template's name may have 512."""
MOST_UNKNOWN = 1_000
# What is dated later than this from now would outweigh every later notice: it counts as of its arrival.
FUTURE = timedelta(days=2)


def parse_webhook(body: bytes, *, received_at: datetime | None = None) -> list[Event]:
    """Read one POST, up to 1,000 updates, into events in the order they stand.

    What is not known becomes `Unknown`; after a thousand of these the rest is not read, since it is not Meta
    who writes so, and everybody's webhooks wait meanwhile. Only a body that is no JSON object raises
    Unreadable. An update without a readable time counts as of `received_at` (now, when not given).
    """
    try:
        data = parse_json(body)
    except ValueError as error:
        raise Unreadable(clean(f"not JSON: {error}", DETAIL_LENGTH)) from None
    if not isinstance(data, dict):
        raise Unreadable("not a JSON object")
    now = received_at or datetime.now(UTC)
    if data.get("object") != "whatsapp_business_account":
        return [_unknown(data.get("object"), data)]
    events: list[Event] = []
    unknown = 0
    for event in _read_entries(data, now):
        events.append(event)
        unknown += isinstance(event, Unknown)
        if unknown > MOST_UNKNOWN:
            break
    return events


def _read_entries(data: dict[str, Any], now: datetime) -> Iterator[Event]:
    for entry in _dicts(data.get("entry")):
        waba_id = _id(entry.get("id"))
        at = _time(entry.get("time"), now)
        for change in _dicts(entry.get("changes")):
            field, value = clean(change.get("field"), WORD_LENGTH), change.get("value")
            read = _READERS.get(field)
            if read is None or not isinstance(value, dict):
                yield _unknown(field, value)
            else:
                yield from read(value, waba_id, at)


def _read_messages(value: dict[str, Any], waba_id: str, now: datetime) -> Iterator[Event]:
    phone_number_id = _id(_dict(value.get("metadata")).get("phone_number_id"))
    for status in _list(value.get("statuses")):
        yield _read_status(status, phone_number_id, now)
    contacts = {_id(contact.get("wa_id")): contact for contact in _dicts(value.get("contacts"))}
    for message in _list(value.get("messages")):
        yield _read_inbound(message, phone_number_id, waba_id, contacts, now)
    for error in _list(value.get("errors")):
        yield _unknown("messages.errors", error)


def _read_status(raw: Any, phone_number_id: str, now: datetime) -> Event:
    try:
        wamid, status = raw["id"], raw["status"]
    except (KeyError, TypeError):
        return _unknown("messages.statuses", raw)
    attempt = raw.get("biz_opaque_callback_data")
    attempt = identifier(attempt, ATTEMPT_LENGTH) if isinstance(attempt, str) else ""
    status = clean(status, WORD_LENGTH) if isinstance(status, str) else ""
    kept = identifier(wamid, WAMID_LENGTH)
    # an id that cannot be kept will do when the attempt says whose it is
    if not (isinstance(wamid, str) and wamid and status and (kept or attempt)):
        return _unknown("messages.statuses", raw)
    code = title = detail = ""
    if errors := raw.get("errors"):
        error = errors[0] if isinstance(errors, list) and isinstance(errors[0], dict) else {}
        code = clean(error.get("code"), CODE_LENGTH)
        title = clean(error.get("title") or error.get("message"), DETAIL_LENGTH)
        detail = clean(_dict(error.get("error_data")).get("details") or error.get("message"), DETAIL_LENGTH)
    pricing = raw.get("pricing")
    category, billable = "", None
    if isinstance(pricing, dict):
        category = clean(pricing.get("category"), WORD_LENGTH)
        billable = pricing.get("billable")
    return StatusUpdate(
        kept,
        status,
        _time(raw.get("timestamp"), now),
        _id(raw.get("recipient_id")),
        attempt or None,
        phone_number_id,
        code,
        title,
        detail,
        category,
        billable if isinstance(billable, bool) else None,
    )


def _read_inbound(
    raw: Any, phone_number_id: str, waba_id: str, contacts: Mapping[str, dict[str, Any]], now: datetime
) -> Event:
    if not isinstance(raw, dict) or not clean(raw.get("id")):
        return _unknown("messages.messages", raw)
    wa_id, kind = _id(raw.get("from")), clean(raw.get("type"), WORD_LENGTH)
    user_id = _user_id(
        raw.get("from_user_id") or raw.get("user_id") or contacts.get(wa_id, {}).get("user_id")
    )
    content = _dict(raw.get(kind))
    reply = _dict(content.get("button_reply") or content.get("list_reply"))
    return InboundMessage(
        wamid=identifier(raw["id"], WAMID_LENGTH),
        at=_time(raw.get("timestamp"), now),
        wa_id=wa_id,
        user_id=user_id,
        kind=kind,
        text=clean(content.get("body") or content.get("text") or reply.get("title")),
        payload=clean(content.get("payload") or reply.get("id")),
        reply_to=identifier(_dict(raw.get("context")).get("id"), WAMID_LENGTH),
        phone_number_id=phone_number_id,
        waba_id=waba_id,
    )


def _read_template_status(value: dict[str, Any], waba_id: str, at: datetime) -> Iterator[Event]:
    if not (event := _word(value.get("event"))):
        yield _unknown("message_template_status_update", value)
        return
    yield TemplateStatus(
        waba_id=waba_id,
        template_id=_id(value.get("message_template_id")),
        name=identifier(value.get("message_template_name"), NAME_LENGTH),
        language=_id(value.get("message_template_language")),
        event=event,
        reason=clean(value.get("reason"), DETAIL_LENGTH),
        at=at,
    )


def _read_template_quality(value: dict[str, Any], waba_id: str, at: datetime) -> Iterator[Event]:
    yield TemplateQuality(
        waba_id=waba_id,
        template_id=_id(value.get("message_template_id")),
        name=identifier(value.get("message_template_name"), NAME_LENGTH),
        language=_id(value.get("message_template_language")),
        previous=_word(value.get("previous_quality_score")),
        current=_word(value.get("new_quality_score")),
        at=at,
    )


def _read_number_quality(value: dict[str, Any], waba_id: str, at: datetime) -> Iterator[Event]:
    yield NumberQuality(
        waba_id=waba_id,
        display_phone_number=_word(value.get("display_phone_number")),
        event=_word(value.get("event")),
        limit=_word(value.get("current_limit") or value.get("max_daily_conversations_per_business")),
        previous_limit=_word(value.get("old_limit")),
        at=at,
    )


def _read_account(value: dict[str, Any], waba_id: str, at: datetime) -> Iterator[Event]:
    yield AccountUpdate(
        waba_id=waba_id,
        event=_word(value.get("event")),
        display_phone_number=_word(value.get("phone_number")),
        restrictions=tuple(
            _word(item.get("restriction_type")) for item in _dicts(value.get("restriction_info"))
        ),
        ban_state=_word(_dict(value.get("ban_info")).get("waba_ban_state")),
        violation=_word(_dict(value.get("violation_info")).get("violation_type")),
        at=at,
    )


def _read_preferences(value: dict[str, Any], waba_id: str, at: datetime) -> Iterator[Event]:
    phone_number_id = _id(_dict(value.get("metadata")).get("phone_number_id"))
    for raw in _list(value.get("user_preferences")):
        item = _dict(raw)
        wa_id, user_id = _id(item.get("wa_id")), _user_id(item.get("user_id"))
        if not (wa_id or user_id):
            yield _unknown("user_preferences", raw)
            continue
        yield UserPreference(
            wa_id=wa_id,
            user_id=user_id,
            category=_word(item.get("category")),
            value=_word(item.get("value")),
            phone_number_id=phone_number_id,
            at=_time(item.get("timestamp"), at),
            waba_id=waba_id,
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
        told = datetime.fromtimestamp(int(value), UTC) if value else fallback
    except (ValueError, TypeError, OverflowError, OSError):
        return fallback
    return told if told <= datetime.now(UTC) + FUTURE else fallback


def _unknown(field: Any, raw: Any) -> Unknown:
    return Unknown(clean(field, WORD_LENGTH), clean_json(raw))


def _word(value: Any) -> str:
    return clean(value, WORD_LENGTH)


def _id(value: Any) -> str:
    return identifier(value, WORD_LENGTH)


def _user_id(value: Any) -> str:
    return identifier(value, USER_ID_LENGTH)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
