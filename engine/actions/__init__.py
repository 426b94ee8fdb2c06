"""What an operator does to lanes, tokens and webhooks, and what the watch does for rows that nobody holds."""

from engine.actions.lanes import pause_lane, recover_lanes, release_flow, resume_lane, retry_receipts

__all__ = ["pause_lane", "recover_lanes", "release_flow", "resume_lane", "retry_receipts"]
