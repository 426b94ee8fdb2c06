"""What the author of an application writes against: `Processor`, what it is given, what it answers."""

from engine.processor.contract import LaneFacts, Processor, Request, Settled, Stale
from engine.processor.counts import Counts
from engine.processor.registry import register_processor
from providers.base import (
    Call,
    Continue,
    Done,
    Failed,
    Hold,
    InDoubt,
    Lost,
    Outcome,
    Reply,
    Response,
    Retry,
    Scope,
    Throttled,
    Unsent,
    Usage,
)

__all__ = [
    "Call",
    "Continue",
    "Counts",
    "Done",
    "Failed",
    "Hold",
    "InDoubt",
    "LaneFacts",
    "Lost",
    "Outcome",
    "Processor",
    "Reply",
    "Request",
    "Response",
    "Retry",
    "Scope",
    "Settled",
    "Stale",
    "Throttled",
    "Unsent",
    "Usage",
    "register_processor",
]
