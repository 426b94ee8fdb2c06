"""Run Turnout's commands as people do, and wait for what other processes do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

from config.localpg import PROJECT

MANAGE = [sys.executable, "manage.py"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "TURNOUT"))}
    return kept | {"PYTHONWARNINGS": "default"} | more


def manage(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MANAGE, *args], env=environment(**env), cwd=PROJECT, capture_output=True, text=True, timeout=110
    )


def until(met: Callable[[], object], *, seconds: float = 20, what: str = "") -> None:
    """Poll until met, or fail."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or met}"
        time.sleep(0.05)


def gone(pid: int) -> bool:
    """Is no such process running? A zombie is not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def family(process: psutil.Process) -> list[int]:
    return [process.pid, *(child.pid for child in process.children(recursive=True))]
