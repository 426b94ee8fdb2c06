"""What a log line says and what it never says."""

from __future__ import annotations

import copy
import io
import json
import logging
import logging.config
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from cryptography.fernet import Fernet

from config import logs
from tenants.scope import tenant_scope

FERNET = Fernet.generate_key().decode()
SEALED = Fernet(FERNET).encrypt(b"EAAG-token").decode()
CASES = [
    ("Authorization: Bearer EAAGm0PX4ZCps", "EAAGm0PX4ZCps"),
    ("key tk_live_8f3kd93jdk refused", "8f3kd93jdk"),
    (f"stored {SEALED}", SEALED),
    ("GET https://lime.example/sendsmsapi?user=bob&api_id=77f&mobile=4915112345&message=Hi+Ann", "bob"),
    (
        "GET https://lime.example/sendsmsapi?user=bob&api_id=77f&mobile=4915112345&message=Hi+Ann",
        "4915112345",
    ),
    ("GET /youtube/v3/videos?part=statistics&key=AIzaSyD4", "AIzaSyD4"),
    ("/webhooks/whatsapp/?hub.verify_token=w0rd&hub.mode=subscribe", "w0rd"),
    ('{"access_token": "EAAGm0PX4"}', "EAAGm0PX4"),
    ("redis://default:hunter22@cache:6379/0", "hunter22"),
    ("postgres://turnout:hunter22@db/turnout", "hunter22"),
    (f"TOKEN_KEYS is {FERNET}", FERNET),
]


@pytest.fixture(params=logs.FORMATS)
def written(request: Any) -> Iterator[io.StringIO]:
    """Configure logging as the settings do, writing into a buffer; put the old way back."""
    config = copy.deepcopy(logs.logging_config(request.param, secrets=[FERNET]))
    buffer = io.StringIO()
    config["handlers"]["stderr"]["stream"] = buffer
    root = logging.getLogger()
    before = root.handlers[:]
    logging.config.dictConfig(config)
    yield buffer
    root.handlers[:] = before


# Numbered, since some of the texts are made anew in each process: workers must agree on names.
@pytest.mark.parametrize(("text", "secret"), CASES, ids=range(len(CASES)))
def test_secrets_are_taken_out_of_messages_arguments_fields_and_tracebacks(
    text: str, secret: str, written: io.StringIO
) -> None:
    logging.getLogger("httpx.trouble").warning(text)
    logging.getLogger("django-q").error("failed: %s", text)
    structlog.stdlib.get_logger("turnout").info("called", url=text, nested={"list": [text, text.encode()]})
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logging.getLogger("turnout").exception("broke")
        structlog.stdlib.get_logger("turnout").exception("broke")
    lines = written.getvalue()
    assert lines.count("RuntimeError") >= 2
    assert lines.count(logs.REDACTED) >= 6
    assert secret not in lines


def test_fields_that_are_secret_by_name_are_never_shown(written: io.StringIO) -> None:
    structlog.stdlib.get_logger("turnout").info(
        "made", secret="plain", config={"app_secret": "plain"}, token_id=7, tokens=3
    )
    lines = written.getvalue()
    assert "plain" not in lines
    assert "7" in lines


@pytest.mark.parametrize("text", ["user=5 opened it", "the key=value form", "half past ten", "a/b?page=2"])
def test_ordinary_words_stay(text: str) -> None:
    assert logs.redact_text(text) == text


@pytest.mark.django_db
@pytest.mark.parametrize("written", ["json"], indirect=True)
def test_every_line_names_request_run_lane_and_tenant(written: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(request="req-1", run=7, lane=9), tenant_scope(5):
        logging.getLogger("django-q").warning("from a library")
        structlog.stdlib.get_logger("turnout").info("from us", count=2)
    logging.getLogger("django-q").warning("outside")
    theirs, ours, outside = map(json.loads, written.getvalue().splitlines())
    for line in (theirs, ours):
        assert line.items() >= {"request": "req-1", "run": 7, "lane": 9, "tenant": 5}.items()
    assert (theirs["event"], ours["event"], ours["count"]) == ("from a library", "from us", 2)
    assert theirs.keys() >= {"timestamp", "level", "logger"}
    assert not {"request", "run", "lane", "tenant"} & outside.keys()


def test_sentry_reports_are_redacted() -> None:
    report = {
        "exception": {"values": [{"value": "Bearer EAAGm0PX4ZCps"}]},
        "request": {"headers": {"Cookie": "abc"}},
    }
    sent = json.dumps(logs._redact_report(report, {}))
    assert "EAAGm0PX4ZCps" not in sent
    assert "abc" not in sent
