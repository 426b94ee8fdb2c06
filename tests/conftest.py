"""What every test stands on: a database on first need, no network but loopback, a browser or a loud word."""

import ipaddress
import os
import random
import secrets
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from config.localpg import ensure_database

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


# -- database


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings_parallel_suffix: None) -> None:
    """Start or attach to the embedded server when the first test asks for a database, not before."""
    ensure_database()


@pytest.fixture(scope="session", autouse=True)
def _databases_are_emptied_quickly() -> Iterator[None]:
    """Have a test that commits leave an empty database in milliseconds."""
    from django.test import TransactionTestCase

    from tests.emptying import empty_database

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", empty_database)
        yield


# -- side by side

GROUPS = {
    "tests/reliability/test_broken_hang.py": "rates",
    "tests/reliability/test_broken_pacing.py": "rates",
    "tests/reliability/test_broken_rate.py": "rates",
    "tests/reliability/test_clusters.py": "rates",
    "tests/reliability/test_found_rates.py": "rates",
    "tests/reliability/test_many_processes.py": "rates",
    "tests/reliability/": "faults",
    "tests/config/test_localpg.py": "servers",
    "tests/config/test_localpg_refusals.py": "servers that refuse",
    "tests/config/test_run.py": "run",
    "tests/config/test_demo.py": "demo",
    "tests/config/test_supervisor.py": "supervisor",
    "tests/browser/": "browser",
}
"""Tests that start processes of their own stay together in one worker, one after the other: they share what
they start, and rates are measured by one of them at a time. The groups are begun first, side by side."""


def pytest_itemcollected(item: pytest.Item) -> None:
    group = next((group for path, group in GROUPS.items() if item.nodeid.startswith(path)), None)
    if group:
        item.add_marker(pytest.mark.xdist_group(group))


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")  # set by pytest-xdist


# -- what is random


@pytest.fixture
def dice() -> random.Random:
    """Dice whose seed a failing test shows. `SEED=…` in the environment throws them again."""
    seed = int(os.environ.get("SEED") or secrets.randbelow(10**9))
    sys.stdout.write(f"SEED={seed}\n")
    return random.Random(seed)


# -- passwords


@pytest.fixture(scope="session", autouse=True)
def _passwords_cost_nothing() -> None:
    """Hash passwords cheaply: a third of a second for each user that a test makes shows nothing."""
    from django.conf import settings

    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


# -- network


class NetworkUsed(RuntimeError):
    """A test reached for something that is not on this machine."""


def _is_local(host: object) -> bool:
    if not host or host == "localhost" or str(host).endswith(".invalid"):  # RFC 6761: never resolves
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse_network(event: str, args: tuple[Any, ...]) -> None:
    """Refuse connections and look-ups that leave the machine, whichever Python library makes them.

    An audit hook also sees asyncio and C code that goes through the socket module. The HTTP client of
    the engine does not: its tests stand on addresses of the sandbox.
    """
    if event == "socket.connect" and isinstance(args[1], tuple) and not _is_local(args[1][0]):
        raise NetworkUsed(f"connection to {args[1]}: tests use loopback only")
    if event == "socket.getaddrinfo" and not _is_local(args[0]):
        raise NetworkUsed(f"look-up of {args[0]!r}: tests use loopback only")


# -- browser


def find_browser() -> str | None:
    """Return the path of a Chromium: CHROMIUM if set, or the first one on PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of the Chromium that browser tests drive. Tests that use it carry the mark `browser`."""
    path = find_browser()
    assert path, "a test that uses the browser needs the mark `browser`"
    return path


_passed: list[str] = []  # browser tests


def pytest_configure() -> None:
    sys.addaudithook(_refuse_network)
    if os.environ.get("REQUIRE_BROWSER") and not find_browser():
        pytest.exit("REQUIRE_BROWSER is set and there is no Chromium: apt install chromium", returncode=1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not find_browser():
        for item in items:
            if "browser" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no Chromium on this machine"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed and "browser" in report.keywords:
        _passed.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _is_worker(session.config):
        return  # the browser's tests are perhaps another worker's
    if os.environ.get("REQUIRE_BROWSER") and not _passed and not session.config.option.collectonly:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if "browser" in r.keywords]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} BROWSER TESTS DID NOT RUN: no Chromium here (apt install chromium)",
            yellow=True,
            bold=True,
        )
    if os.environ.get("REQUIRE_BROWSER") and not _passed:
        terminalreporter.write_line("REQUIRE_BROWSER is set and no browser test passed", red=True, bold=True)
