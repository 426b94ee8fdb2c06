"""What people, systems and the engine do with senders, templates, broadcasts and messages."""

from messaging.actions.again import LONGEST_MINUTES, doubtful_of, resend_in_doubt, retry_failed
from messaging.actions.broadcasts import create_broadcast, delete_broadcast, update_broadcast
from messaging.actions.control import (
    cancel_broadcast,
    pause_broadcast,
    resolve_in_doubt,
    resume_broadcast,
)
from messaging.actions.failures import refuse_after_failures
from messaging.actions.flow import advance_broadcast, hold_broadcasts
from messaging.actions.launch import (
    Launched,
    Preflight,
    launch_broadcast,
    launch_due_broadcasts,
    preflight_broadcast,
)
from messaging.actions.senders import create_sender, delete_sender, update_sender
from messaging.actions.suppressions import suppress
from messaging.actions.templates import create_template, update_template
from messaging.actions.upkeep import cancel_leftovers, compact_tallies, tend_broadcasts

__all__ = [
    "LONGEST_MINUTES",
    "Launched",
    "Preflight",
    "advance_broadcast",
    "cancel_broadcast",
    "cancel_leftovers",
    "compact_tallies",
    "create_broadcast",
    "create_sender",
    "create_template",
    "delete_broadcast",
    "delete_sender",
    "doubtful_of",
    "hold_broadcasts",
    "launch_broadcast",
    "launch_due_broadcasts",
    "pause_broadcast",
    "preflight_broadcast",
    "refuse_after_failures",
    "resend_in_doubt",
    "resolve_in_doubt",
    "resume_broadcast",
    "retry_failed",
    "suppress",
    "tend_broadcasts",
    "update_broadcast",
    "update_sender",
    "update_template",
]
