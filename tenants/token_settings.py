"""What a provider token needs beside its secret: the settings that each vendor's `config` may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: always a text; `secret` ones are sealed, never shown, and null leaves them as they are."""

    pattern: str
    means: str
    secret: bool = False


DIGITS = Setting(r"[0-9]{1,32}", "is 1 to 32 digits in quotes")
VERSION = Setting(r"v[0-9]{1,3}\.[0-9]{1,3}", "is written like v25.0")
WORD = Setting(r"[\w.~@+-]{1,100}", "is a text of 1 to 100 letters, digits and . _ ~ @ + -")
SECRET = Setting(r"[^\x00-\x1f\x7f]{0,500}", "is a text of at most 500 characters", secret=True)

SETTINGS: dict[str, dict[str, Setting]] = {
    "whatsapp": {
        "waba_id": DIGITS,
        "version": VERSION,
        "app_secret": SECRET,
        "verify_token": SECRET,
    },
    "meta": {
        "page_id": DIGITS,
        "instagram_id": DIGITS,
        "version": VERSION,
        "app_secret": SECRET,
        "verify_token": SECRET,
    },
    "lime": {"user": WORD, "shortcode": WORD, "list_id": WORD, "webhook_secret": SECRET},
    "apify": {"webhook_secret": SECRET},
    "youtube": {},
}
"""By vendor. A setting that is not here is refused by name, so that a misspelt one is not quietly kept."""

SECRET_SETTINGS = tuple(
    sorted({name for known in SETTINGS.values() for name, setting in known.items() if setting.secret})
)
"""The settings of a provider token that are as secret as the token itself: sealed, never shown."""


def wrong_settings(provider: str, config: Any) -> list[str]:
    """Say what is wrong with a token's `config`, a sentence each; empty: it may be kept."""
    if not isinstance(config, Mapping):
        return ['This is an object, e.g. {"waba_id": "123"}.']
    known = SETTINGS.get(provider, {})
    wrong = []
    for name, value in config.items():
        setting = known.get(name)
        if setting is None:
            wrong.append(
                f"There is no setting {str(name)[:40]!r} for {provider}. "
                f"Known are: {', '.join(known) or 'none'}."
            )
        elif value is None and setting.secret:
            continue
        elif not isinstance(value, str) or not re.fullmatch(setting.pattern, value):
            wrong.append(f"{name} {setting.means}.")
    return wrong
