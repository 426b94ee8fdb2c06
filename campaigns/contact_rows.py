"""One contact as it comes in, by file, JSON or form: checked, normalised, or refused with every reason."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import EmailValidator

from campaigns import phones

FIELDS = ("external_id", "phone", "email", "name", "timezone", "attributes", "accounts")
PLATFORMS = ("facebook", "instagram", "tiktok", "youtube")
LENGTHS = {"external_id": 128, "phone": 64, "email": 254, "name": 200, "timezone": 64}
ACCOUNT_FIELDS = ("platform", "user_id", "username")
MAX_ACCOUNT_NAME = 64
MAX_ACCOUNTS = 20
MAX_ATTRIBUTES = 200
MAX_ATTRIBUTE_KEY = 100
MAX_ATTRIBUTE_DEPTH = 5
MAX_ATTRIBUTE_TEXT = 4_000

# PostgreSQL's text holds no NUL, and half of a surrogate pair has no UTF-8.
_unstorable = re.compile("[\x00\ud800-\udfff]").search
_check_email = EmailValidator(message="is not an e-mail address")


class NotAContact(ValueError):
    """What came in is no contact; `errors` says why, one sentence a fault."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors = errors


class Unusable(ValueError):
    """A value cannot be stored; the message says why and is meant to be read."""


@dataclass(slots=True)
class Account:
    """An account on a platform; at least one of the two names is there."""

    platform: str
    user_id: str = ""
    username: str = ""


@dataclass(slots=True)
class ContactRow:
    """A contact ready to be stored. An empty text or dict means: not said."""

    external_id: str
    phone: str = ""
    email: str = ""
    name: str = ""
    timezone: str = ""
    phone_zone: str = ""  # read from the phone; used where nobody says otherwise
    attributes: dict[str, Any] = field(default_factory=dict)
    accounts: list[Account] = field(default_factory=list)


def read_row(raw: object, *, region: str | None = None) -> ContactRow:
    """Check and normalise one contact with the API's fields. Raises `NotAContact` with all its faults."""
    if not isinstance(raw, Mapping):
        raise NotAContact(["must be an object"])
    errors: list[str] = []

    def normalised(name: str, value: str, by: Callable[[str], Any], default: Any) -> Any:
        try:
            return by(value) if value else default
        except ValueError as error:
            errors.append(f"{name}: {error}")
            return default

    errors.extend(f"{unknown}: no such field" for unknown in sorted(map(str, raw.keys() - set(FIELDS))))
    text = {name: _text(raw, name, errors) for name in LENGTHS}
    if not text["external_id"] and not any(error.startswith("external_id") for error in errors):
        errors.append("external_id: is missing")
    phone, zone = normalised(
        "phone", text["phone"], lambda value: phones.normalise_with_zone(value, region=region), ("", "")
    )
    row = ContactRow(
        external_id=text["external_id"],
        phone=phone,
        email=normalised("email", text["email"], normalise_email, ""),
        name=text["name"],
        timezone=normalised("timezone", text["timezone"], check_time_zone, ""),
        phone_zone=zone,
        attributes=_attributes(raw.get("attributes"), errors),
        accounts=_accounts(raw.get("accounts"), errors),
    )
    if errors:
        raise NotAContact(errors)
    return row


def normalise_email(text: str) -> str:
    """Return an e-mail address in lower case. Raises `Unusable`."""
    try:
        _check_email(text)
    except ValidationError as error:
        raise Unusable(error.message) from None
    return text.lower()


def check_time_zone(name: str) -> str:
    """Return the name of an IANA zone as it is. Raises `Unusable`."""
    if not phones.is_time_zone(name):
        raise Unusable(f"{name!r} is not an IANA time zone such as Europe/Berlin")
    return name


def clean_account_name(text: str) -> str:
    """Return a user name or id without the @ that people put before it. Raises `Unusable`."""
    name = text.strip().removeprefix("@")
    if len(name) > MAX_ACCOUNT_NAME:
        raise Unusable(f"is longer than {MAX_ACCOUNT_NAME} characters")
    if _unstorable(name) or any(character.isspace() for character in name):
        raise Unusable("holds a blank or a control character")
    return name


def check_attributes(value: object) -> dict[str, Any]:
    """Return attributes that can be stored and searched. Raises `Unusable`."""
    if not isinstance(value, Mapping):
        raise Unusable("must be an object")
    if len(value) > MAX_ATTRIBUTES:
        raise Unusable(f"holds more than {MAX_ATTRIBUTES} keys")
    for key, item in value.items():
        if not isinstance(key, str) or not key.strip() or len(key) > MAX_ATTRIBUTE_KEY or _unstorable(key):
            raise Unusable(f"a key must be 1 to {MAX_ATTRIBUTE_KEY} characters")
        check_json(key, item)
    return dict(value)


def check_json(key: str, value: object, depth: int = MAX_ATTRIBUTE_DEPTH) -> None:
    """Raise `Unusable` for a value that PostgreSQL's jsonb cannot hold, or that is too long or too deep."""
    if isinstance(value, str):
        if len(value) > MAX_ATTRIBUTE_TEXT:
            raise Unusable(f"{key} is longer than {MAX_ATTRIBUTE_TEXT} characters")
        if _unstorable(value):
            raise Unusable(f"{key} holds a character that cannot be stored")
    elif isinstance(value, float) and not math.isfinite(value):
        raise Unusable(f"{key} is not a finite number")
    elif isinstance(value, int) and abs(value) >= 10**30:
        raise Unusable(f"{key} has more than 30 digits")
    elif isinstance(value, Mapping | list):
        if depth == 0:
            raise Unusable(f"{key} is nested more than {MAX_ATTRIBUTE_DEPTH} deep")
        if len(value) > MAX_ATTRIBUTES:
            raise Unusable(f"{key} holds more than {MAX_ATTRIBUTES} values")
        for item in (*value.keys(), *value.values()) if isinstance(value, Mapping) else value:
            check_json(key, item, depth - 1)
    elif value is not None and not isinstance(value, bool | int | float):
        raise Unusable(f"{key} is not a JSON value")


def _text(raw: Mapping[str, object], name: str, errors: list[str]) -> str:
    value = raw.get(name)
    if value is None:
        return ""
    if name == "external_id" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # systems number their customers, and JSON keeps the number one
    if not isinstance(value, str):
        errors.append(f"{name}: must be text")
        return ""
    value = value.strip()
    if len(value) > LENGTHS[name]:
        errors.append(f"{name}: is longer than {LENGTHS[name]} characters")
        return ""
    if _unstorable(value):
        errors.append(f"{name}: holds a character that cannot be stored")
        return ""
    return value


def _attributes(value: object, errors: list[str]) -> dict[str, Any]:
    if not value:
        if value is not None and not isinstance(value, Mapping):
            errors.append("attributes: must be an object")
        return {}
    try:
        return check_attributes(value)
    except Unusable as error:
        errors.append(f"attributes: {error}")
        return {}


def _accounts(value: object, errors: list[str]) -> list[Account]:
    if value is None:
        return []
    if not isinstance(value, list) or len(value) > MAX_ACCOUNTS:
        errors.append(f"accounts: must be a list of at most {MAX_ACCOUNTS}")
        return []
    accounts = []
    for item in value:
        try:
            accounts.append(_account(item))
        except Unusable as error:
            errors.append(f"accounts: {error}")
    errors.extend(f"accounts: {name} comes twice" for name in _repeated(accounts))
    return accounts


def _account(item: object) -> Account:
    if not isinstance(item, Mapping):
        raise Unusable("each must be an object")
    if unknown := sorted(str(key) for key in item.keys() - set(ACCOUNT_FIELDS)):
        raise Unusable(f"{', '.join(unknown)}: no such field")
    platform = item.get("platform")
    if platform not in PLATFORMS:
        raise Unusable(f"platform must be one of {', '.join(PLATFORMS)}")
    names = [item.get(name, "") or "" for name in ("user_id", "username")]
    if not all(isinstance(name, str) for name in names):
        raise Unusable(f"{platform}: user_id and username must be text")
    try:
        user_id, username = (clean_account_name(str(name)) for name in names)
    except Unusable as error:
        raise Unusable(f"{platform}: {error}") from None
    if not (user_id or username):
        raise Unusable(f"{platform}: needs a user_id or a username")
    return Account(str(platform), user_id, username.lower())  # user names are the same in any case


def _repeated(accounts: Iterable[Account]) -> list[str]:
    """Name the accounts that would be the same one twice."""
    seen: set[tuple[str, str, str]] = set()
    repeated = []
    for account in accounts:
        for kind, name in (("user_id", account.user_id), ("username", account.username)):
            key = (account.platform, kind, name)
            if name and key in seen:
                repeated.append(f"{account.platform} {name}")
            seen.add(key)
    return repeated
