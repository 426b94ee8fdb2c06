"""WhatsApp Cloud API: templates out, signed webhooks in. Pure functions; see `docs/adding-a-provider.md`."""

from providers.meta.graph import exhausted, read_usage
from providers.meta.webhook import BODY_LIMIT, SIGNATURE_HEADER, handshake, sign, verify
from providers.registry import VENDORS
from providers.whatsapp.account import (
    Number,
    Template,
    TemplatePage,
    check_token,
    get_number,
    list_templates,
    read_check,
    read_number,
    read_templates,
)
from providers.whatsapp.errors import (
    CONTENT_CODES,
    ECOSYSTEM_CODES,
    ERRORS,
    RESTRICTED_CODES,
    ErrorClass,
    classify,
    is_marketing_opt_out,
    title,
)
from providers.whatsapp.events import (
    AccountUpdate,
    Event,
    InboundMessage,
    NumberQuality,
    StatusUpdate,
    TemplateQuality,
    TemplateStatus,
    Unknown,
    UserPreference,
)
from providers.whatsapp.send import HELD_STATUSES, read_send, send_template
from providers.whatsapp.webhook import parse_webhook

DEFAULT_VERSION = VENDORS["whatsapp"].default_version

__all__ = [
    "BODY_LIMIT",
    "CONTENT_CODES",
    "DEFAULT_VERSION",
    "ECOSYSTEM_CODES",
    "ERRORS",
    "HELD_STATUSES",
    "RESTRICTED_CODES",
    "SIGNATURE_HEADER",
    "AccountUpdate",
    "ErrorClass",
    "Event",
    "InboundMessage",
    "Number",
    "NumberQuality",
    "StatusUpdate",
    "Template",
    "TemplatePage",
    "TemplateQuality",
    "TemplateStatus",
    "Unknown",
    "UserPreference",
    "check_token",
    "classify",
    "exhausted",
    "get_number",
    "handshake",
    "is_marketing_opt_out",
    "list_templates",
    "parse_webhook",
    "read_check",
    "read_number",
    "read_send",
    "read_templates",
    "read_usage",
    "send_template",
    "sign",
    "title",
    "verify",
]
