"""A real Chromium before a real server, and the processes that send behind it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from django.db import connection
from playwright.sync_api import Browser, Page, sync_playwright

from config.localpg import PROJECT
from sandbox import Running, SandboxConfig, running

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
SHOTS = PROJECT / "screenshots"  # of failures; not kept under version control


@pytest.fixture(scope="module")
def browser(chromium: str, django_db_setup: None) -> Iterator[Browser]:
    """A Chromium for one module's tests.

    Playwright keeps an event loop in this thread, beside which Django would refuse the ORM and other
    modules' loops would not start: so it ends with the module.
    """
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """One person's browser. A script that fails on the page fails the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(15_000)
    broken: list[str] = []
    page.on("pageerror", lambda error: broken.append(str(error)))
    failed_before = request.session.testsfailed
    yield page
    if broken or request.session.testsfailed > failed_before:
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / f"{request.node.name}.png", full_page=True)
    context.close()
    assert not broken, broken


@pytest.fixture
def vendor() -> Iterator[Running]:
    with running(SandboxConfig(latency_ms=(20, 5), rate=200)) as sandbox:
        yield sandbox


@pytest.fixture
def start(vendor: Running, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Start one of our commands against the test's database and vendor: `start("process", "messaging")`."""
    server = connection.settings_dict | connection.settings_dict.get("OPTIONS", {})
    place = urlencode(
        {"host": server.get("host") or server["HOST"], "port": server.get("port") or server["PORT"]}
    )
    who = f"{server['USER']}:{quote(server['PASSWORD'])}" if server["PASSWORD"] else server["USER"]
    environment = {
        **os.environ,
        "DATABASE_URL": f"postgres://{who}@/{server['NAME']}?{place}",
        "WHATSAPP_URL": vendor.url,
    }
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{'-'.join(arguments[:2])}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                cwd=PROJECT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
    for process in started:
        process.wait(20)
