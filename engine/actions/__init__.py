"""What an operator does to lanes, tokens and webhooks, and what the watch does for rows that nobody holds."""

from engine.actions.lanes import pause_lane, recover_lanes, release_flow, resume_lane, retry_receipts
from engine.actions.requests import nudge_requests

__all__ = [
    "nudge_requests",
    "pause_lane",
    "recover_lanes",
    "release_flow",
    "resume_lane",
    "retry_receipts",
]
