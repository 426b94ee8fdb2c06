"""An embedded server of a test's own, in a folder of its own."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.localpg import PROJECT
from tests.config.embedded import HOLDER, clean


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder for one server, which the server's own account can reach."""
    folder = Path(tempfile.mkdtemp(prefix="localpg test "))
    folder.chmod(0o755)
    yield folder
    clean(folder)


@pytest.fixture
def hold(base: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a process that holds the server; closing its standard input ends it properly."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str = HOLDER, **options: Any) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, str(base)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, text=True, **options))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
