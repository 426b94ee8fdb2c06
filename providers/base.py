"""What a vendor's API is to us: a `Call` that we make, what comes back, and what that means for the rows.

A provider module supplies pure functions only: how to build a `Call`, and how to read what came back
as `Outcome`s. It holds no client, reads no setting and knows no table; `providers.http` alone knows
an HTTP client, and the engine alone moves rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, quote_plus

import orjson

ONE_CALL: Mapping[str, int] = MappingProxyType({"calls": 1})


@dataclass(slots=True, frozen=True, repr=False)
class Call:
    """One HTTP request, ready to leave.

    `timeout` is in seconds and covers the whole exchange. `secrets` are the strings that must never
    be shown: whoever logs or stores an exchange passes its text through `redact` first. `cost` is what the
    call spends of the token's allowances, by unit, e.g. {"calls": 1, "usd_cents": 37}; None: one call. Of an
    answer at most `longest` bytes are read, unpacked: a longer one is `Lost`.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    timeout: float = 30.0
    secrets: tuple[str, ...] = ()
    cost: Mapping[str, int] | None = None
    longest: int = 1024 * 1024

    def __str__(self) -> str:
        return redact(f"{self.method} {self.url}", self.secrets)

    def __repr__(self) -> str:
        return f"<Call {self}>"


@dataclass(slots=True, frozen=True)
class Reply:
    """The vendor answered. Header names are lower case; `elapsed` is in seconds."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    elapsed: float = 0.0


@dataclass(slots=True, frozen=True)
class Unsent:
    """Certainly never reached the vendor: refused, no such host, TLS failed. Safe to make again."""

    reason: str


@dataclass(slots=True, frozen=True)
class Lost:
    """Written, or perhaps written, and no answer that can be read: timed out or reset.

    The vendor may have acted on it. A read may be made again, a send must not be.
    """

    reason: str


Response = Reply | Unsent | Lost


class Scope(StrEnum):
    """How much a refusal holds back beside its row: its flow (a broadcast's step), its lane (a number),
    or every lane on the same token (an account, an app)."""

    FLOW = "flow"
    LANE = "lane"
    TOKEN = "token"  # noqa: S105 (a scope, not a secret)


@dataclass(slots=True, frozen=True)
class Done:
    """The request is answered. `fields` are columns of its row to set, e.g. the vendor's id.

    `facts` are what the reply teaches, values of the application's own; `learn` gets them. `state` is the
    word for the end where it is not the processor's `done_state`. `again` makes the request a recurring
    one: done, and due again after that time with fresh attempts.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    facts: Sequence[Any] = ()
    state: str | None = None
    detail: str = ""
    again: timedelta | None = None


@dataclass(slots=True, frozen=True)
class Continue:
    """Answered in part: `fields` keep what the next call needs (a cursor, the vendor's run id), and the
    request is due again after `after`. No attempt is used.

    `forget` drops the attempt's name: the vendor has said that nothing became of what was begun under it,
    so the next plan may begin anew.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    facts: Sequence[Any] = ()
    after: timedelta = timedelta(0)
    forget: bool = False


@dataclass(slots=True, frozen=True)
class Retry:
    """Failed for now and certainly not done. Uses an attempt; the processor's policy says how many there are.

    `after` overrides the policy's delay.
    """

    code: str
    detail: str = ""
    after: timedelta | None = None


@dataclass(slots=True, frozen=True)
class Throttled:
    """Too fast for the vendor, and not the row's fault: no attempt used. The row waits `after`, and so does
    everything in `scope`; with none, the row alone.

    With `slow_down` it is the lane's own rate that the vendor refused: its pacer gives way.
    """

    after: timedelta
    scope: Scope | None = Scope.LANE
    code: str = ""
    detail: str = ""
    slow_down: bool = False


@dataclass(slots=True, frozen=True)
class Failed:
    """Final for this row."""

    code: str
    detail: str = ""


@dataclass(slots=True, frozen=True)
class InDoubt:
    """Nobody can know yet whether the vendor did it. Never made again by itself."""

    detail: str = ""


@dataclass(slots=True, frozen=True)
class Hold:
    """Somebody must act before anything in `scope` goes on: spam rating, dead token, bill, template.

    Rows go back to the queue without using an attempt. `reason` is a word of the contract's
    `pause_reason`; nothing held resumes by itself.
    """

    reason: str
    scope: Scope = Scope.LANE
    code: str = ""
    detail: str = ""


Outcome = Done | Continue | Retry | Throttled | Failed | InDoubt | Hold


@dataclass(slots=True, frozen=True)
class Usage:
    """How much of an allowance is used, in the vendor's own words (headers, a limits endpoint).

    `unit` is what is counted (`calls`, `usd_cents`, `units` …). `share` is used / limit, 1.0 at the limit;
    `used` and `limit` are absolute, in `unit`. What the vendor did not say is None. `regain_after`: for so
    long from now are calls refused.
    """

    unit: str
    share: float | None = None
    used: int | None = None
    limit: int | None = None
    regain_after: timedelta | None = None


class Standing(StrEnum):
    """What a vendor says of a token when asked (`check_tokens`)."""

    ACTIVE = "active"
    THROTTLED = "throttled"
    EXPIRED = "expired"
    REVOKED = "revoked"
    FAILING = "failing"


class ProviderError(Exception):
    """Something a provider was given cannot be spoken to or understood. Never carries a secret."""


class BadSignature(ProviderError):
    """The webhook's signature does not fit its body: refuse it and store nothing."""


class Unreadable(ProviderError):
    """The vendor's words are not in any shape we know."""


# Control characters but tab and line ends, DEL and C1, and halves of surrogate pairs.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
TEXT_LENGTH = 4_000
"""Characters that are kept of a vendor's text that no column limits."""


def clean(value: object, length: int = TEXT_LENGTH, secrets: tuple[str, ...] = ()) -> str:
    """Make a vendor's text or number fit for a column and for people: at most `length` characters of it.

    Characters that PostgreSQL's text or a terminal cannot take are left out, `secrets` are redacted before
    the cut. Anything that is neither text nor number is "".
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    text = value if isinstance(value, str) else _digits(value)
    if not text.isprintable():
        text = _UNFIT.sub("", text)
    return redact(text, secrets)[:length]


def identifier(value: object, length: int) -> str:
    """Read a vendor's id; "" when it would have to be mended or cut, since it would then be another's."""
    if isinstance(value, str) and len(value) <= length and value.isprintable():
        return value
    text = clean(value)
    if len(text) > length or (isinstance(value, str) and text != value):
        return ""
    return text


def clean_json(value: Any) -> Any:
    """Clean every text inside a vendor's JSON, names included, so that it can be stored as jsonb."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [clean_json(item) for item in value]
    if isinstance(value, dict):
        return {clean(name): clean_json(item) for name, item in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return clean(value)
    return value


def parse_json(body: bytes) -> Any:
    """Parse a vendor's JSON, odd but legal texts and numbers included. Raises ValueError when it is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # orjson refuses halves of surrogate pairs and numbers beyond a double, which JSON allows.
        try:
            return json.loads(body)
        except RecursionError:
            raise ValueError("nested too deeply") from None


def _digits(number: float) -> str:
    try:
        return str(number)
    except ValueError:  # more digits than Python writes out
        return ""


def redact(text: str, secrets: tuple[str, ...]) -> str:
    """Replace every secret in `text`, as it stands and percent-encoded, by `***`."""
    for secret in secrets:
        if secret:
            for form in {secret, quote(secret, safe=""), quote_plus(secret)}:
                text = text.replace(form, "***")
    return text


def exchange(call: Call, response: Response, limit: int = 4_000) -> dict[str, Any]:
    """Describe a call and what came back, fit to be stored: no secret, no credentials, not endless."""
    kept = {name: value for name, value in call.headers.items() if name.lower() not in _CREDENTIAL_HEADERS}
    record: dict[str, Any] = {
        "method": call.method,
        "url": redact(call.url, call.secrets),
        "headers": {name: redact(value, call.secrets) for name, value in kept.items()},
        "body": _shown(call.body, call.secrets, limit),
    }
    if isinstance(response, Reply):
        record["reply"] = {
            "status": response.status,
            "headers": {
                name: redact(value, call.secrets)
                for name, value in response.headers.items()
                if name.lower() not in _CREDENTIAL_HEADERS
            },
            "body": _shown(response.body, call.secrets, limit),
            "elapsed": round(response.elapsed, 3),
        }
    else:
        kind = "unsent" if isinstance(response, Unsent) else "lost"
        record["reply"] = {kind: redact(response.reason, call.secrets)}
    return record


_CREDENTIAL_HEADERS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})


def _shown(body: bytes, secrets: tuple[str, ...], limit: int) -> str:
    # Redacted before it is cut, or a secret across the cut would stay half readable.
    return redact(body.decode(errors="replace").replace("\0", ""), secrets)[:limit]
