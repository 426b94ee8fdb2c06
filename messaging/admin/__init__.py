"""Messaging in the admin: broadcasts, messages, templates, senders and suppressions."""

from messaging.admin import broadcasts, messages, senders, templates

__all__ = ["broadcasts", "messages", "senders", "templates"]
