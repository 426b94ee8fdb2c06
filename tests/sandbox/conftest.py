from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from providers import whatsapp
from providers.base import Response
from providers.http import send_now

NUMBER = "106540352242922"
Send = Callable[..., Response]


@pytest.fixture
def send() -> Send:
    """Send one message as our own provider does: `send(url, to=…)`."""

    def make(url: str, to: str = "+4915112345678", number: str = NUMBER, **changes: Any) -> Response:
        values: dict[str, Any] = {
            "token": "t0k",
            "template": "offer",
            "language": "en",
            "attempt": f"attempt-{to}",
            "timeout": 3.0,
        }
        values |= changes
        return send_now(
            whatsapp.send_template(base_url=url, version="v25.0", phone_number_id=number, to=to, **values)
        )

    return make


@pytest.fixture
def stats() -> Callable[[str], dict[str, Any]]:
    return lambda url: httpx.get(f"{url}/_sandbox/stats", trust_env=False).json()
