"""Servers, databases and ports of a test's own."""

import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from config.localpg import PROJECT, LocalPg
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


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of an empty database on the project's embedded server."""
    server, name = LocalPg().ensure(), f"run_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield server.url().replace("@/ops?", f"@/{name}?")
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def port() -> int:
    """A port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        found: int = server.getsockname()[1]
    return found
