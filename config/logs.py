"""One chain for every log line, ours and the libraries': what, for whom, and no secrets.

Bind what the lines of a piece of work have in common with `structlog.contextvars.bound_contextvars(run=…,
lane=…)`; the tenant is read from the scope in force, so nobody has to remember it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor

REDACTED: Final = "[redacted]"
FORMATS: Final = ("console", "json")

# Field names whose text is never shown, whatever it holds.
SECRET_FIELDS: Final = frozenset(
    (
        "access_token",
        "api_key",
        "app_secret",
        "authorization",
        "cookie",
        "dsn",
        "password",
        "sealed_secret",
        "secret",
        "set-cookie",
        "token",
        "verify_token",
        "x-hub-signature-256",
    )
)
_SHAPES: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{6,}"), rf"\1 {REDACTED}"),
    (re.compile(r"\btk_[\w-]{6,}"), f"tk_{REDACTED}"),  # our own API keys
    (re.compile(r"\bgAAAA[\w-]{20,}={0,2}"), REDACTED),  # Fernet
    # Lime carries its key, the number and the text in the query; Google its key; Meta its token.
    (
        re.compile(
            r"(?i)([?&](?:amp;)?(?:key|user|api_id|message|mobile|token|secret|password|access_token|"
            r"appsecret_proof|hub\.verify_token)=)[^&\s\"'<>]+"
        ),
        rf"\1{REDACTED}",
    ),
    (
        re.compile(
            r"(?i)\b(access_token|api_key|app_secret|client_secret|password)(\W{1,4})([^\s\"'&,;)}]{4,})"
        ),
        rf"\1\2{REDACTED}",
    ),
    (re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@"), rf"\1:{REDACTED}@"),
)
_known: set[str] = set()


def logging_config(log_format: str, *, secrets: Iterable[str] = ()) -> dict[str, Any]:
    """Return Django's LOGGING, and set structlog up to the same chain.

    `secrets` are the values that must never be shown, wherever they turn up. Any format but "json" is
    written for people (an unknown one is refused by `config.checks`).
    """
    _known.update(secret for secret in secrets if len(secret) >= 8)
    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        add_tenant,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *chain,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            pad_event_to=0,
            exception_formatter=structlog.dev.plain_traceback,
        )
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "chain": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": chain,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    redact,
                    renderer,
                ],
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "chain"}},
        "root": {"handlers": ["stderr"], "level": "INFO"},
        "loggers": {
            # Each of these brings its own handler unless told otherwise: one line each, through ours.
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            "django.server": {"handlers": [], "level": "WARNING", "propagate": True},
            "django.request": {"handlers": [], "level": "ERROR", "propagate": True},
            "django-q": {"level": "WARNING"},  # each tick would be three lines; runs tell of themselves
            "httpx": {"level": "WARNING"},
            "apprise": {"level": "WARNING"},
        },
    }


def add_tenant(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Name the tenant whose scope is in force, unless the line names one itself."""
    scopes = sys.modules.get("tenants.scope")  # holds models, so it is not there while Django starts
    scope = scopes._scope.get() if scopes is not None and hasattr(scopes, "_scope") else None
    if scope is not None:
        event.setdefault("tenant", scope)
    return event


def redact(_logger: Any, _method: str, event: EventDict) -> MutableMapping[str, Any]:
    """Take the secrets out of every field, tracebacks included. The last step before rendering."""
    return {name: redact_value(value, str(name)) for name, value in event.items()}


def redact_value(value: Any, field: str = "") -> Any:
    """Return a copy of value, however nested, without secrets."""
    if isinstance(value, str):
        return REDACTED if value and field.lower() in SECRET_FIELDS else redact_text(value)
    if isinstance(value, Mapping):
        return {name: redact_value(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_value(item, field) for item in value]
    if isinstance(value, bytes):
        return redact_text(value.decode(errors="replace"))
    if value is None or isinstance(value, bool | int | float):
        return value
    return redact_text(str(value))


def redact_text(text: str) -> str:
    for secret in _known:
        if secret in text:
            text = text.replace(secret, REDACTED)
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text


def start_sentry(dsn: str) -> None:
    """Report errors to Sentry: no personal data, no variables, no request bodies, and redacted."""
    if not dsn:
        return
    import sentry_sdk

    sentry_sdk.init(
        dsn=dsn,
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
        before_send=_redact_report,
        before_breadcrumb=_redact_report,
    )


def _redact_report(report: Any, _hint: Any) -> Any:
    return redact_value(report)
