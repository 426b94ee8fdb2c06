"""The handbooks keep up with the code: every incident and every check is in them."""

from __future__ import annotations

import re

import pytest

from config.localpg import PROJECT
from engine.actions import tokens
from engine.watch import checks as watch
from messaging.actions import flow

OPERATING = (PROJECT / "docs/operating.md").read_text()
DEPLOYING = (PROJECT / "docs/deploying.md").read_text()
ROOMS = ("campaigns", "engine", "messaging", "tenants", "tracking", "verification")


def incident_kinds() -> set[str]:
    written = {
        kind
        for room in ROOMS
        for path in (PROJECT / room).rglob("*.py")
        for kind in re.findall(r'(?:open|end)_incident\([^()]*?kind="(\w+)"', path.read_text())
    }
    return {*written, *watch._checks, tokens.INCIDENT, flow.PAUSED_KIND, flow.STEP_KIND}


@pytest.mark.parametrize("kind", sorted(incident_kinds()))
def test_operating_says_what_to_do_about_each_incident(kind: str) -> None:
    assert f"| `{kind}` |" in OPERATING


def test_deploying_names_every_check() -> None:
    source = (PROJECT / "config/checks.py").read_text()
    numbers = {f"E{int(n):03}" for n in re.findall(r"\berror\(\s*(\d+),", source)}
    numbers |= {f"W{int(n):03}" for n in re.findall(r"\bwarning\(\s*(\d+),", source)}
    assert len(numbers) >= 26
    spanned = {f"E{n:03}" for n in range(22, 26)} if "E022 to E025" in DEPLOYING else set()
    assert sorted(numbers - spanned - set(re.findall(r"[EW]\d{3}", DEPLOYING))) == []


def test_deploying_names_every_setting_of_the_contract() -> None:
    settings = (PROJECT / "config/settings.py").read_text()
    read = set(re.findall(r'env(?:\.\w+)?\(\s*"([A-Z_]+)"', settings))
    assert {"SECRET_KEY", "DATABASE_URL", "ALERT_URLS"} <= read
    missing = {name for name in read if f"`{name}`" not in DEPLOYING}
    assert not missing
