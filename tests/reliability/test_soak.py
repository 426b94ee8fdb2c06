"""R12, short: everything that goes wrong, all at once. Whole it is `make soak`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.harness import PROJECT


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_half_a_minute_of_everything_leaves_nobody_twice_and_nobody_out() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "LEASE_SECONDS"}
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--seconds", "30"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert ended.returncode == 0, ended.stderr[-4_000:]
