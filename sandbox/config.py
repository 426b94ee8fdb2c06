"""What the sandbox should do: set at the start, changed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

FAULTS = (
    "fail_graph",
    "fail_bare",
    "reset_before",
    "reset_after",
    "hang_before",
    "hang_after",
    "unreadable",
    "odd_error",
    "odd_wamid",
    "odd_shape",
)
OF_A_NUMBER = (*FAULTS, "errors", "hang_seconds", "latency_ms")
"""What `numbers` may set for one number alone."""


@dataclass(slots=True, frozen=True)
class SandboxConfig:
    """Everything that can be chosen. Shares are of 1, times in seconds, unless a name says otherwise.

    The faults (`fail_…`, `reset_…`, `hang_before`, `hang_after`, `unreadable`, `odd_…`, `errors`) exclude
    each other per request, so their shares must not add up to more than 1.
    """

    # How it answers
    latency_ms: tuple[float, float] = (150.0, 50.0)  # mean, standard deviation
    jitter_ms: float = 0.0  # an arrival is counted early or late by up to so many ms, evenly
    rate: float = 80.0  # messages per number in any second, 130429 above it; 0: no limit
    rates: Mapping[str, float] = field(default_factory=dict)  # the same for single numbers
    dead_tokens: frozenset[str] = frozenset()  # answered with 190
    spent_tokens: frozenset[str] = frozenset()  # answered with 80007 and usage headers at 100 %
    missing_templates: frozenset[str] = frozenset()  # 132001
    paused_templates: frozenset[str] = frozenset()  # 132015
    waba_id: str = "100000000000001"
    foreign_accounts: frozenset[str] = frozenset()  # WABAs that are shared with no token: answered with 100

    # Faults of a send. "Accepted" means that the message counts and its webhooks are sent.
    fail_graph: float = 0.0  # 500 with an error body; not accepted
    fail_bare: float = 0.0  # 502 with a proxy's page; not accepted
    reset_before: float = 0.0  # connection reset; not accepted
    reset_after: float = 0.0  # connection reset; accepted
    hang_before: float = 0.0  # no answer for `hang_seconds`; not accepted
    hang_after: float = 0.0  # likewise; accepted
    hang_seconds: float = 60.0
    hang_all: float = 0.0  # from the moment it is set, for so many seconds: nobody is answered or accepted
    unreadable: float = 0.0  # 200 with half an answer; accepted
    odd_error: float = 0.0  # 500 whose words hold a NUL and run over 100,000 characters; not accepted
    odd_wamid: float = 0.0  # 200 with an id of 200 characters; accepted
    odd_shape: float = 0.0  # 200 with JSON of another shape; accepted
    errors: Mapping[str, float] = field(default_factory=dict)  # code -> share; not accepted
    numbers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # number -> its own faults
    burst_every: float = 0.0  # every so many seconds, 130429 for all …
    burst_length: float = 0.0  # … during so many seconds

    # Status webhooks
    webhook_url: str = ""  # "": none are sent
    webhook_secret: str = ""  # the app secret that signs them; "": unsigned
    webhook_batch: int = 200  # updates per POST, 1 to 1,000
    webhook_interval: float = 0.1  # how long updates gather before a POST
    webhook_posts: int = 4  # POSTs under way at once
    webhook_retry: float = 0.5  # first wait after a refusal; doubles up to 5 s, for ever
    webhook_copies: int = 1  # how often each update is delivered
    webhook_shuffle: bool = False  # in no order at all
    webhook_first: bool = False  # "sent" arrives before the send's own answer
    sent_after: float = 0.2
    delivered_after: float = 0.6
    read_after: float = 1.5
    delivered: float = 1.0  # share of the sent that are delivered
    read: float = 0.6  # share of the delivered that are read
    skip_delivered: float = 0.0  # share of the read that are never reported as delivered
    failed: Mapping[str, float] = field(default_factory=dict)  # code -> share that fails later, by webhook

    def merge(self, changes: Mapping[str, Any]) -> SandboxConfig:
        """Return a configuration with `changes` from JSON in it. Raises ValueError for what does not fit."""
        known = {item.name: item for item in fields(self)}
        values = {}
        for name, value in changes.items():
            if name not in known:
                raise ValueError(f"no such setting: {name}")
            values[name] = _fit(name, value, getattr(SandboxConfig(), name))
        merged = replace(self, **values)
        if len(merged.faults()) and merged.faults()[-1][0] > 1 + 1e-9:
            raise ValueError("the faults' shares add up to more than 1")
        for number in merged.numbers:
            merged.of(number)
        if not 1 <= merged.webhook_batch <= 1_000:
            raise ValueError("webhook_batch must be between 1 and 1,000")
        return merged

    def of(self, number: str) -> SandboxConfig:
        """Return what holds for one number: its own faults, where it has any, and not everybody's.

        Raises ValueError where `numbers` says what does not fit.
        """
        own = self.numbers.get(number, {})
        if wrong := sorted(set(own) - set(OF_A_NUMBER)):
            raise ValueError(f"numbers: {wrong[0]} is not a number's own")
        if not own:
            return self
        none = {**dict.fromkeys(FAULTS, 0.0), "errors": {}}
        return replace(self, numbers={}).merge(none | dict(own))

    def faults(self) -> list[tuple[float, str]]:
        """Return the faults as a ladder: a die below the first number that exceeds it means that fault."""
        return ladder([(name, getattr(self, name)) for name in FAULTS] + list(self.errors.items()))

    def failures(self) -> list[tuple[float, str]]:
        """Return the later failures as a ladder."""
        return ladder(list(self.failed.items()))

    def as_json(self) -> dict[str, Any]:
        """Show every setting but the secret."""
        shown: dict[str, Any] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            shown[item.name] = sorted(value) if isinstance(value, frozenset) else value
        shown["webhook_secret"] = "***" if self.webhook_secret else ""
        shown["dead_tokens"] = len(self.dead_tokens)
        shown["spent_tokens"] = len(self.spent_tokens)
        return shown


def ladder(shares: list[tuple[str, float]]) -> list[tuple[float, str]]:
    """Turn shares into rising thresholds, leaving out what never happens."""
    steps, total = [], 0.0
    for name, share in shares:
        if share > 0:
            total += share
            steps.append((total, name))
    return steps


def _fit(name: str, value: Any, like: Any) -> Any:
    """Bring a value from JSON into the shape of a setting's default."""
    match like, value:
        case bool(), bool():
            return value
        case frozenset(), list() | tuple() | set() | frozenset():
            return frozenset(str(item) for item in value)
        case tuple(), [mean, deviation] if _is_amount(mean) and _is_amount(deviation):
            return (float(mean), float(deviation))
        case Mapping(), Mapping() if name == "numbers" and all(
            isinstance(own, Mapping) for own in value.values()
        ):
            return {str(number): dict(own) for number, own in value.items()}
        case Mapping(), Mapping() if name != "numbers" and all(_is_amount(share) for share in value.values()):
            return {str(key): float(share) for key, share in value.items()}
        case ((int() | float()), _) if not isinstance(like, bool) and _is_amount(value):
            return type(like)(value)
        case str(), str():
            return value
    raise ValueError(f"{name}: {value!r} does not fit")


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9
