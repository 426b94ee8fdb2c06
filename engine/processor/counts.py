"""What a run did, in numbers: the row `engine.Run` and the contract's `process --json` line."""

from __future__ import annotations

from dataclasses import dataclass

ADDED = (
    "claimed",
    "done",
    "continued",
    "retried",
    "throttled",
    "failed",
    "in_doubt",
    "held",
    "given_back",
    "overtaken",
    "calls",
    "facts",
    "decided",
)


@dataclass(slots=True)
class Counts:
    """What a run did. `overtaken` are those of them that somebody else had
    decided before, each counted by its own outcome too; `per_second` is `done`."""

    queue: str
    claimed: int = 0
    done: int = 0
    failed: int = 0
    retried: int = 0
    throttled: int = 0
    in_doubt: int = 0
    held: int = 0
    remaining: int = 0
    seconds: float = 0.0
    continued: int = 0
    given_back: int = 0
    overtaken: int = 0
    calls: int = 0
    facts: int = 0
    decided: int = 0
    lanes: int = 0
    batch_size: int = 0

    @property
    def per_second(self) -> float:
        return self.done / self.seconds if self.seconds else 0.0

    def add(self, other: Counts) -> None:
        """Add what another one counted."""
        for name in ADDED:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self) -> dict[str, str | int | float]:
        counts = ("claimed", "done", "failed", "retried", "throttled", "in_doubt", "held", "remaining")
        return {
            "queue": self.queue,
            **{name: getattr(self, name) for name in counts},
            "seconds": round(self.seconds, 3),
            "per_second": round(self.per_second, 2),
        }
