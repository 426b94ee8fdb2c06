"""What tests of the embedded server share: a process that holds it, and ways to look at it."""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import psycopg

from config.localpg import LocalPg

HOLDER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where the tests run in the background
from pathlib import Path
from config.localpg import LocalPg
LocalPg(Path(sys.argv[1])).ensure()
print("up", flush=True)
sys.stdin.read()
"""


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


def clean(folder: Path) -> None:
    server = LocalPg(folder)
    server.stop()
    for path in {server.state, server.socket, folder}:
        shutil.rmtree(path, ignore_errors=True)


def up(process: "subprocess.Popen[str]") -> None:
    assert process.stdout
    assert process.stdout.readline() == "up\n"


def leave(process: "subprocess.Popen[str]") -> None:
    process.communicate()
    assert process.returncode == 0


def postmaster(server: LocalPg) -> psutil.Process:
    (process,) = server._processes()[0]
    return process


def gone(process: psutil.Process) -> bool:
    """Has it ended? A zombie has, though perhaps nobody ever reaps it."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def sql(server: LocalPg, statement: str) -> Any:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None
