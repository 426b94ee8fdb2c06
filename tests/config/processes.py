"""Wait for what other processes do."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil


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
