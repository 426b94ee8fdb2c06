"""The engine in the admin: queues and lanes, tokens, runs, incidents, webhooks."""

from engine.admin import incidents, lanes, ledgers, tokens
from engine.admin.lanes import DEPTHS

__all__ = ["DEPTHS", "incidents", "lanes", "ledgers", "tokens"]
