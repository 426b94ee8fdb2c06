"""What a vendor's API is to us: a `Call` that we make, what comes back, and what that means for the rows.

A provider module supplies pure functions only: how to build a `Call`, and how to read what came back
as `Outcome`s. It holds no client, reads no setting and knows no table; `providers.http` alone knows
an HTTP client, and the engine alone moves rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType, ModuleType
from typing import Any
from urllib.parse import quote, quote_plus

ONE_CALL: Mapping[str, int] = MappingProxyType({"calls": 1})


@dataclass(slots=True, frozen=True, repr=False)
class Call:
    """One HTTP request, ready to leave.

    `timeout` is in seconds and covers the whole exchange. `secrets` are the strings that must never
    be shown: whoever logs or stores an exchange passes its text through `redact` first. `cost` is what the
    call spends of the token's allowances, by unit: {"calls": 1}, {"calls": 1, "usd_cents": 37}.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    timeout: float = 30.0
    secrets: tuple[str, ...] = ()
    cost: Mapping[str, int] = field(default_factory=lambda: ONE_CALL)

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
    """A vendor's own word on what is used of an allowance, as usage headers and limits endpoints tell it.

    `share` is of 1, `used` and `limit` count the unit; what the vendor did not say is None.
    `regain_after` is how long it wants no more calls.
    """

    unit: str = "calls"
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


# The contract's provider names and the modules that speak them.
MODULES = {
    "whatsapp": "providers.whatsapp",
    "meta": "providers.meta_graph",
    "lime": "providers.lime",
    "apify": "providers.apify",
    "youtube": "providers.youtube",
}


def load(name: str) -> ModuleType:
    """Import the module that speaks to a provider, by the contract's name for it."""
    if name not in MODULES:
        raise ProviderError(f"there is no provider {name!r}: it is one of {', '.join(MODULES)}")
    if find_spec(MODULES[name]) is None:
        raise ProviderError(f"{name} is not spoken yet")
    return import_module(MODULES[name])
