"""Each system check: one setting that makes it speak, and the demo's and production's that do not."""

from __future__ import annotations

import re
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.conf import settings as live
from django.core.checks import Error, run_checks

from config.checks import TAG
from config.localpg import PROJECT

PRODUCTION: dict[str, Any] = {
    "DEBUG": False,
    "SECRET_KEY": "".join(chr(33 + number) for number in range(60)),
    "ALLOWED_HOSTS": ["turnout.example.com"],
    "TOKEN_KEYS": [Fernet.generate_key().decode()],
    "PUBLIC_URL": "https://turnout.example.com",
    "CSRF_TRUSTED_ORIGINS": ["https://turnout.example.com"],
    "DATABASE_URL": "postgres://turnout@db.example.com/turnout",
    "META_APP_SECRET": "0123456789abcdef",
    "META_VERIFY_TOKEN": "a word of our own",
    "ALERT_URLS": ["json://alerts.example.com/turnout"],
}
Q = live.Q_CLUSTER

WEAK_IN_PRODUCTION: list[tuple[str, dict[str, Any]]] = [
    ("E001", {"SECRET_KEY": live.DEMO_SECRET_KEY}),
    ("E002", {"SECRET_KEY": "short"}),
    ("E002", {"SECRET_KEY": "a" * 60}),
    ("E003", {"ALLOWED_HOSTS": []}),
    ("E004", {"ALLOWED_HOSTS": ["*"]}),
    ("E026", {"ALLOWED_HOSTS": ["other.example.com"]}),
    ("E007", {"TOKEN_KEYS": [Fernet.generate_key().decode(), live.DEMO_TOKEN_KEY]}),
    ("E009", {"PUBLIC_URL": "http://turnout.example.com"}),
    ("E009", {"PUBLIC_URL": "https://127.0.0.1:8000", "ALLOWED_HOSTS": ["127.0.0.1"]}),
    ("E011", {"DATABASE_URL": ""}),
    ("E015", {"META_APP_SECRET": live.DEMO_META_APP_SECRET}),
    ("E015", {"META_APP_SECRET": ""}),
    ("E016", {"META_VERIFY_TOKEN": live.DEMO_META_VERIFY_TOKEN}),
    ("E016", {"META_VERIFY_TOKEN": ""}),
    *(
        ("E018", {name: url})
        for name in (
            "WHATSAPP_URL",
            "META_GRAPH_URL",
            "INSTAGRAM_GRAPH_URL",
            "LIME_URL",
            "APIFY_URL",
            "YOUTUBE_URL",
        )
        for url in ("http://127.0.0.1:9009", "https://localhost", "http://vendor.example.com")
    ),
    ("W002", {"ALERT_URLS": []}),
]
WRONG_ALWAYS: list[tuple[str, dict[str, Any]]] = [
    ("E005", {"TOKEN_KEYS": []}),
    ("E006", {"TOKEN_KEYS": ["not a key"]}),
    ("E006", {"TOKEN_KEYS": [Fernet.generate_key().decode(), "dHVybm91dA=="]}),
    ("E008", {"PUBLIC_URL": "turnout.example.com"}),
    ("E008", {"PUBLIC_URL": "https://turnout.example.com/path"}),
    ("E010", {"CSRF_TRUSTED_ORIGINS": ["turnout.example.com"]}),
    ("E012", {"DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3"}}}),
    ("E013", {"DATABASES": {"default": {**live.DATABASES["default"], "OPTIONS": {"pool": True}}}}),
    ("E014", {"BROKER_URL": "amqp://localhost"}),
    ("E014", {"BROKER_URL": "localhost:6379"}),
    ("E017", {"WHATSAPP_URL": "graph.facebook.com"}),
    ("E017", {"APIFY_URL": "ftp://api.apify.com"}),
    ("E017", {"LIME_URL": ""}),
    ("E019", {"ALERT_URLS": ["nosuchservice://x"]}),
    ("E020", {"SENTRY_DSN": "sentry.example.com"}),
    ("E021", {"LOG_FORMAT": "xml"}),
    ("E022", {"Q_CLUSTER": {**Q, "retry": Q["timeout"]}}),
    ("E023", {"Q_CLUSTER": {**Q, "timeout": live.TICK_SECONDS}}),
    ("E024", {"Q_CLUSTER": {**Q, "ALT_CLUSTERS": {"messaging": {}}}}),
    ("E025", {"Q_CLUSTER": {**Q, "catch_up": True}}),
    ("E025", {"Q_CLUSTER": {**Q, "max_attempts": 0}}),
    ("E025", {"Q_CLUSTER": {**Q, "ack_failures": False}}),
    ("E027", {"API_REQUESTS_PER_MINUTE": 0}),
    ("E030", {"METRICS_TOKEN": "short"}),
    ("E031", {"RECEIPT_DAYS": 0}),
]


def test_every_number_is_one_check() -> None:
    source = (PROJECT / "config/checks.py").read_text()
    said = re.findall(r"\b(error|warning)\(\s*(\d+),\s*f?\"([^\"]+)", source)
    assert len({(kind, number) for kind, number, _ in said}) == len(said) >= 28


def named(case: Any) -> str:
    return f"{case[0]}-{next(iter(case[1]))}"


def findings() -> dict[str, Any]:
    return {str(found.id).removeprefix("turnout."): found for found in run_checks(tags=[TAG])}


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set settings for this test. No signal is sent, since no connection is to be made to what they say."""

    def configure(**values: Any) -> None:
        for name, value in values.items():
            monkeypatch.setattr(live, name, value)

    return configure


def test_production_settings_pass(configure: Any) -> None:
    configure(**PRODUCTION)
    assert findings() == {}


def test_the_demo_passes_with_nothing_set(configure: Any) -> None:
    configure(DEBUG=True)
    assert findings() == {}


@pytest.mark.parametrize("case", WEAK_IN_PRODUCTION, ids=named)
def test_what_is_weak_is_refused_in_production_only(case: tuple[str, dict[str, Any]], configure: Any) -> None:
    number, values = case
    configure(**PRODUCTION)
    configure(**values)
    assert list(findings()) == [number]
    assert findings()[number].hint
    configure(DEBUG=True)
    assert number not in findings()


@pytest.mark.parametrize("case", WRONG_ALWAYS, ids=named)
@pytest.mark.parametrize("debug", [True, False], ids=["debug", "production"])
def test_what_cannot_be_read_is_refused_always(
    case: tuple[str, dict[str, Any]], debug: bool, configure: Any
) -> None:
    number, values = case
    configure(**PRODUCTION)
    configure(DEBUG=debug)
    configure(**values)
    found = findings()
    assert number in found
    assert isinstance(found[number], Error)
    assert found[number].hint


def test_debug_on_a_public_address_is_warned_about(configure: Any) -> None:
    configure(**PRODUCTION)
    configure(DEBUG=True)
    assert list(findings()) == ["W001"]


def test_no_finding_shows_a_secret(configure: Any) -> None:
    secrets = {
        "SECRET_KEY": "s3cret-s3cret",
        "TOKEN_KEYS": ["s3cret-key"],
        "ALERT_URLS": ["bogus://user:s3cret@host"],
        "SENTRY_DSN": "https://s3cret",
        "BROKER_URL": "amqp://user:s3cret@host",
    }
    configure(**PRODUCTION)
    configure(**secrets)
    found = findings()
    assert {"E002", "E006", "E019", "E020", "E014"} <= set(found)
    assert not [text for text in map(str, found.values()) if "s3cret" in text]
