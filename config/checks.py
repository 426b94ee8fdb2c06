"""What is missing or wrong in the settings, said at start-up and with what to set.

E001 to E099 stop every command. Those about weakness apply with DEBUG=false only; a value that cannot
be read at all is an error always. W001 to W099 are said and no more.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, register
from django.http.request import validate_host

from config.logs import FORMATS
from providers.registry import VENDORS

TAG = "turnout"
VENDOR_URLS = tuple(name for vendor in VENDORS.values() for name in vendor.url_settings)
NEW_WORD = "python -c 'import secrets; print(secrets.token_urlsafe(50))'"
NEW_FERNET = "python -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())'"

Check = Callable[..., list[CheckMessage]]


def error(number: int, what: str, hint: str) -> Error:
    return Error(what, hint=hint, id=f"turnout.E{number:03}")


def warning(number: int, what: str, hint: str) -> checks.Warning:
    return checks.Warning(what, hint=hint, id=f"turnout.W{number:03}")


def check(find: Callable[[], Iterator[CheckMessage]]) -> Check:
    """Register a generator of findings as a system check."""

    def found(app_configs: Any = None, **_kwargs: Any) -> list[CheckMessage]:
        return list(find())

    register(TAG)(found)
    return found


@check
def secret_key() -> Iterator[CheckMessage]:
    key = settings.SECRET_KEY
    if settings.DEBUG:
        return
    if key == settings.DEMO_SECRET_KEY:
        yield error(1, "SECRET_KEY is the demo's, which everybody knows.", f"Set SECRET_KEY: {NEW_WORD}")
    elif len(key) < 50 or len(set(key)) < 5:
        yield error(2, "SECRET_KEY is too weak: 50 characters at least.", f"Set SECRET_KEY: {NEW_WORD}")


@check
def allowed_hosts() -> Iterator[CheckMessage]:
    if settings.DEBUG:
        return
    if not settings.ALLOWED_HOSTS:
        yield error(3, "ALLOWED_HOSTS is empty.", "Set ALLOWED_HOSTS to the host of PUBLIC_URL.")
    elif "*" in settings.ALLOWED_HOSTS:
        yield error(4, "ALLOWED_HOSTS lets everything in.", "Set ALLOWED_HOSTS to the host of PUBLIC_URL.")
    elif not validate_host(urlsplit(settings.PUBLIC_URL).hostname or "", settings.ALLOWED_HOSTS):
        yield error(
            26,
            "ALLOWED_HOSTS does not name the host of PUBLIC_URL: every request would be refused.",
            f"Add {urlsplit(settings.PUBLIC_URL).hostname!r} to ALLOWED_HOSTS.",
        )


@check
def token_keys() -> Iterator[CheckMessage]:
    if not settings.TOKEN_KEYS:
        yield error(5, "TOKEN_KEYS is empty: nothing can be encrypted.", f"Set TOKEN_KEYS: {NEW_FERNET}")
    for position, key in enumerate(settings.TOKEN_KEYS, start=1):
        try:
            Fernet(key)
        except ValueError:
            yield error(6, f"TOKEN_KEYS: key {position} is not a Fernet key.", f"Make one: {NEW_FERNET}")
    if not settings.DEBUG and settings.DEMO_TOKEN_KEY in settings.TOKEN_KEYS:
        yield error(
            7,
            "TOKEN_KEYS holds the demo's key, which everybody knows.",
            f"Put a new key first ({NEW_FERNET}), run rotate_token_keys, then take the demo's out.",
        )


@check
def public_url() -> Iterator[CheckMessage]:
    if not is_origin(settings.PUBLIC_URL):
        yield error(
            8,
            f"PUBLIC_URL is not scheme and host: {settings.PUBLIC_URL!r}.",
            "Set PUBLIC_URL to where the world reaches us, e.g. https://turnout.example.com",
        )
    elif not settings.DEBUG and (
        not settings.PUBLIC_URL.startswith("https://") or is_local(settings.PUBLIC_URL)
    ):
        yield error(
            9,
            f"PUBLIC_URL is not a public https address: {settings.PUBLIC_URL!r}.",
            "Vendors post their webhooks there: set PUBLIC_URL, e.g. https://turnout.example.com",
        )
    if settings.DEBUG and is_origin(settings.PUBLIC_URL) and not is_local(settings.PUBLIC_URL):
        yield warning(
            1,
            "DEBUG is on, and PUBLIC_URL is not this machine.",
            "Set DEBUG=false: error pages show settings and code.",
        )


@check
def csrf_trusted_origins() -> Iterator[CheckMessage]:
    for origin in settings.CSRF_TRUSTED_ORIGINS:
        if not is_origin(origin.replace("://*.", "://any.")):
            yield error(
                10,
                f"CSRF_TRUSTED_ORIGINS: {origin!r} is not scheme and host.",
                "Write each with its scheme, e.g. https://turnout.example.com",
            )


@check
def database() -> Iterator[CheckMessage]:
    url, default = settings.DATABASE_URL, settings.DATABASES["default"]
    if not url and not settings.DEBUG:
        yield error(
            11,
            "DATABASE_URL is not set, and the embedded database is for development.",
            "Set DATABASE_URL, e.g. postgres://turnout:…@db.example.com/turnout",
        )
    if not default.get("ENGINE", "").startswith("django.db.backends.postgresql"):
        yield error(
            12,
            "DATABASE_URL does not name a PostgreSQL database, or cannot be read.",
            "Set it to postgres://user:password@host:5432/name, special characters percent-encoded.",
        )
    if "pool" in default.get("OPTIONS", {}):
        yield error(
            13,
            "DATABASE_URL asks for a connection pool, which django-q2's forked workers break.",
            "Take `pool` out of it; a pooler in session mode may stand in front of PostgreSQL.",
        )


@check
def broker_url() -> Iterator[CheckMessage]:
    url = settings.BROKER_URL
    if url and urlsplit(url).scheme not in ("redis", "rediss", "unix"):
        yield error(
            14,
            "BROKER_URL is not a Redis address.",
            "Set it to redis://host:6379/0, or leave it out: the database is the broker then.",
        )


@check
def meta_secrets() -> Iterator[CheckMessage]:
    if settings.DEBUG:
        return
    if settings.META_APP_SECRET in ("", settings.DEMO_META_APP_SECRET):
        yield error(
            15,
            "META_APP_SECRET is not set: anybody could sign webhooks.",
            "Set it to the app secret that Meta shows under App settings, Basic.",
        )
    if settings.META_VERIFY_TOKEN in ("", settings.DEMO_META_VERIFY_TOKEN):
        yield error(
            16,
            "META_VERIFY_TOKEN is not set.",
            f"Set it to a word of your own ({NEW_WORD}) and give Meta the same one.",
        )


@check
def vendor_urls() -> Iterator[CheckMessage]:
    for name in VENDOR_URLS:
        url = getattr(settings, name)
        if not is_origin(url):
            yield error(
                17, f"{name} is not scheme and host: {url!r}.", "Leave it out to use the vendor's own."
            )
        elif not settings.DEBUG and (is_local(url) or not url.startswith("https://")):
            yield error(
                18,
                f"{name} points at {url}: not a vendor.",
                "Leave it out to use the vendor's own. Tokens would travel there.",
            )


@check
def alert_urls() -> Iterator[CheckMessage]:
    if not settings.ALERT_URLS:
        if not settings.DEBUG:
            yield warning(
                2, "ALERT_URLS is empty: incidents are told to nobody.", "Set it to Apprise addresses."
            )
        return
    import apprise  # half a second of plugins

    for position, url in enumerate(settings.ALERT_URLS, start=1):
        if apprise.Apprise.instantiate(url, suppress_exceptions=True) is None:
            yield error(
                19,
                f"ALERT_URLS: address {position} is none that Apprise knows.",
                "See https://github.com/caronc/apprise/wiki for how each service is written.",
            )


@check
def sentry_dsn() -> Iterator[CheckMessage]:
    if not settings.SENTRY_DSN:
        return
    from sentry_sdk.utils import BadDsn, Dsn

    try:
        Dsn(settings.SENTRY_DSN)
    except BadDsn:
        yield error(20, "SENTRY_DSN is not a DSN.", "Copy it from Sentry: https://<key>@<host>/<project>")


@check
def log_format() -> Iterator[CheckMessage]:
    if settings.LOG_FORMAT not in FORMATS:
        yield error(21, f"LOG_FORMAT is {settings.LOG_FORMAT!r}.", f"Set it to one of: {', '.join(FORMATS)}.")


@check
def clusters() -> Iterator[CheckMessage]:
    conf = settings.Q_CLUSTER
    longest = conf["timeout"] * (1 + conf["queue_limit"] / conf["workers"])
    if conf["retry"] <= longest:
        yield error(
            22,
            f"Q_CLUSTER: retry={conf['retry']} lets a task run twice at once.",
            f"More than timeout * (1 + queue_limit / workers) = {longest:.0f}.",
        )
    if conf["timeout"] <= settings.TICK_SECONDS:
        yield error(
            23,
            f"Q_CLUSTER: timeout={conf['timeout']} kills runs before their own end.",
            f"More than TICK_SECONDS = {settings.TICK_SECONDS}.",
        )
    if missing := sorted(set(settings.QUEUES) - set(conf["ALT_CLUSTERS"])):
        yield error(24, f"Q_CLUSTER: ALT_CLUSTERS lacks {', '.join(missing)}.", "Name every queue there.")
    if conf.get("catch_up", True) or conf.get("max_attempts", 0) != 1 or not conf.get("ack_failures", False):
        yield error(
            25,
            "Q_CLUSTER would run a tick again that was missed or failed.",
            "catch_up false, max_attempts 1, ack_failures true: rows carry their own retries.",
        )


@check
def api_rate() -> Iterator[CheckMessage]:
    if settings.API_REQUESTS_PER_MINUTE < 1:
        yield error(
            27, "API_REQUESTS_PER_MINUTE lets no request through.", "Set it to 1 or more; the default is 600."
        )


@check
def metrics_token() -> Iterator[CheckMessage]:
    if settings.METRICS_TOKEN and len(settings.METRICS_TOKEN) < 20:
        yield error(
            30,
            "METRICS_TOKEN is too weak: 20 characters at least.",
            f"Set METRICS_TOKEN: {NEW_WORD}; or leave it out, and /metrics answers this machine alone.",
        )


@check
def receipt_days() -> Iterator[CheckMessage]:
    if settings.RECEIPT_DAYS < 1:
        yield error(
            31, "RECEIPT_DAYS would delete webhooks at once.", "Set it to 1 or more; the default is 7."
        )


def is_origin(url: str) -> bool:
    """Is this a scheme and a host, with a port or without, and nothing else?"""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = not (parts.path.strip("/") or parts.query or parts.fragment or parts.username)
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and port != 0


def is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified
