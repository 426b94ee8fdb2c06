"""What every provider must hold to, whatever its vendor says.

A new one is one entry in `PROVIDERS`, and in the tables of `test_registry.py` for its tokens and webhooks.

Providers whose calls only read (a page of comments) may call again what was lost; those that send must
not. Everything else is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from providers import whatsapp
from providers.base import Call, Outcome, Reply, Response

SECRET = "EAAB-s3cret/with+signs="


@dataclass(frozen=True)
class Spoken:
    """One provider's main call: how it is made and read, and its vendor's words."""

    name: str
    sends: bool
    make: Callable[[], Call]
    read: Callable[[Response], Outcome]
    done: Reply
    error: Callable[[object, str], bytes]  # an error body with this code and these words

    def __str__(self) -> str:
        return self.name


def _whatsapp_error(code: object, words: str) -> bytes:
    return orjson.dumps({"error": {"code": code, "message": words, "error_data": {"details": words}}})


PROVIDERS = [
    Spoken(
        name="whatsapp",
        sends=True,
        make=lambda: whatsapp.send_template(
            base_url="https://graph.example.invalid",
            version="v25.0",
            phone_number_id="106540352242922",
            token=SECRET,
            to="+4915112345678",
            template="offer",
            language="en",
            attempt="0192f000-0000-7000-8000-000000000001",
        ),
        read=lambda response: whatsapp.read_send(response, secrets=(SECRET,)),
        done=Reply(200, {}, b'{"messages":[{"id":"wamid.A"}]}'),
        error=_whatsapp_error,
    ),
]
