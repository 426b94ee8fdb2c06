"""Children are kept running, and none is left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.guardian import read_groups
from config.localpg import PROJECT
from config.supervisor import Child, PortTaken, Supervisor, check_port
from engine.clock.stopping import STOP_FD
from tests.config.processes import gone, until

# Writes its own pid and its child's, then waits; {on_term} is what it does when asked to stop.
FAMILY = """
import os, signal, subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-c",
    "import signal, sys, time"
    "\\nsignal.signal(signal.SIGTERM, lambda *_: open(sys.argv[1], 'w').close() or sys.exit())"
    "\\nprint('up', flush=True)\\ntime.sleep(600)", {mark!r}], stdout=subprocess.PIPE)
helper.stdout.readline()
signal.signal(signal.SIGTERM, {on_term})
print("pids", os.getpid(), helper.pid, flush=True)
time.sleep(600)
"""
OBEYS = "lambda *_: (helper.kill(), sys.exit(0))"
REFUSES = "signal.SIG_IGN"


class Lines:
    """What children said, and the pids among it."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.lock = threading.Lock()

    def __call__(self, name: str, line: str) -> None:
        with self.lock:
            self.lines.append((name, line))

    def families(self, name: str = "child") -> list[tuple[int, int]]:
        with self.lock:
            return [
                (int(line.split()[1]), int(line.split()[2]))
                for of, line in self.lines
                if of == name and line.startswith("pids ")
            ]

    def said(self, words: str) -> bool:
        with self.lock:
            return any(words in line for _, line in self.lines)


Begin = Callable[..., Supervisor]


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def begin(lines: Lines) -> Iterator[Begin]:
    begun: list[Supervisor] = []

    def begin(*children: Child, **options: object) -> Supervisor:
        supervisor = Supervisor(children, lines, **options)
        begun.append(supervisor)
        supervisor.start()
        return supervisor

    yield begin
    for supervisor in begun:
        if supervisor._stop_pipe:
            supervisor.stop(grace=0)


def family(tmp_path: Path, on_term: str = OBEYS, **more: str) -> Child:
    code = FAMILY.format(mark=str(tmp_path / "helper-was-asked"), on_term=on_term)
    return Child("child", [sys.executable, "-c", code], **more)


def test_a_killed_child_is_started_again_and_what_it_left_is_gone(
    begin: Begin, lines: Lines, tmp_path: Path
) -> None:
    supervisor = begin(family(tmp_path))
    until(lines.families)
    leader, helper = lines.families()[0]
    os.kill(leader, signal.SIGKILL)

    def again() -> bool:
        supervisor.watch()
        return len(lines.families()) == 2

    until(again)
    assert gone(helper)
    assert lines.said("child ended (signal SIGKILL)")
    assert supervisor.children[0].restarts == 1


def test_one_that_keeps_dying_is_given_ever_more_time(begin: Begin, lines: Lines) -> None:
    supervisor = begin(Child("child", [sys.executable, "-c", "raise SystemExit(3)"]))

    def thrice() -> bool:
        supervisor.watch()
        return supervisor.children[0].failures >= 3

    until(thrice)
    told = [line for _, line in lines.lines if "again in" in line]
    assert [line.split(";")[0] for line in told] == ["child ended (exit code 3)"] * len(told)
    assert [line.rsplit(" in ")[1] for line in told[:3]] == ["0.5 s", "1 s", "2 s"]


def test_stopping_asks_the_leader_only_and_leaves_nobody(begin: Begin, lines: Lines, tmp_path: Path) -> None:
    supervisor = begin(family(tmp_path))
    until(lines.families)
    leader, helper = lines.families()[0]
    supervisor.stop()
    assert gone(leader)
    assert gone(helper)
    assert not (tmp_path / "helper-was-asked").exists()


def test_one_that_will_not_stop_is_killed_with_its_helpers(
    begin: Begin, lines: Lines, tmp_path: Path
) -> None:
    supervisor = begin(family(tmp_path, REFUSES))
    until(lines.families)
    leader, helper = lines.families()[0]
    supervisor.stop(grace=0.5)
    until(lambda: gone(leader) and gone(helper))


def test_a_cluster_without_a_heartbeat_is_ended_and_started_again(
    begin: Begin, lines: Lines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ages = {"child": 1000.0}
    supervisor = begin(family(tmp_path, REFUSES, cluster="child"), heartbeats=lambda: ages)
    until(lines.families)
    supervisor._looked_at -= 60
    supervisor.watch()
    assert len(lines.families()) == 1, "it has only just started"

    leader, helper = lines.families()[0]
    supervisor.children[0].started_at -= 1000
    supervisor._looked_at -= 60
    supervisor.watch()
    assert lines.said("no sign of work")

    def again() -> bool:
        supervisor.watch()
        return len(lines.families()) == 2

    until(again)
    assert gone(leader)
    assert gone(helper)


SERVER = """
import http.server, os, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
print("pids", os.getpid(), os.getpid(), flush=True)
server.handle_request()
time.sleep(600)  # it listens and does not answer
"""


def test_a_server_that_no_longer_answers_is_ended_and_started_again(
    begin: Begin, lines: Lines, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("config.supervisor.ANSWER_SECONDS", 0.2)
    monkeypatch.setattr("config.supervisor.UNANSWERED_SECONDS", 0.3)
    monkeypatch.setattr("config.supervisor.LOOK_SECONDS", 0.1)
    command = [sys.executable, "-c", SERVER, str(port)]
    supervisor = begin(Child("child", command, address=f"http://127.0.0.1:{port}/"))
    until(lines.families)

    def again() -> bool:
        supervisor.watch()
        return len(lines.families()) == 2

    until(again)
    assert gone(lines.families()[0][0])
    assert lines.said("no sign of work")


def test_runs_are_told_to_wind_down(begin: Begin, lines: Lines) -> None:
    code = """
    import time
    from engine.clock.stopping import stop_asked
    print("asked", stop_asked(), flush=True)
    while not stop_asked():
        time.sleep(0.05)
    print("asked", stop_asked(), flush=True)
    """
    supervisor = begin(Child("child", [sys.executable, "-c", textwrap.dedent(code)]))
    until(lambda: lines.said("asked False"))
    child = supervisor.children[0].process
    assert child is not None
    assert supervisor._stop_pipe is not None
    os.close(supervisor._stop_pipe[1])  # as `stop` does first, and as the kernel does for a dead supervisor
    until(lambda: lines.said("asked True"))
    assert child.wait(5) == 0
    supervisor._stop_pipe = (supervisor._stop_pipe[0], os.open(os.devnull, os.O_RDONLY))


@pytest.mark.parametrize("value", ["", "nonsense", "987654"])
def test_without_a_supervisor_nobody_asks(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.clock.stopping import stop_asked

    monkeypatch.setenv(STOP_FD, value)
    assert not stop_asked()


def test_a_killed_supervisor_takes_its_children_along(tmp_path: Path) -> None:
    code = f"""
    import sys, time
    from config.supervisor import Child, Supervisor
    code = {FAMILY.format(mark=str(tmp_path / "mark"), on_term=REFUSES)!r}
    children = [Child(name, [sys.executable, "-c", code]) for name in ("one", "two")]
    supervisor = Supervisor(children, lambda name, line: print(line, flush=True))
    supervisor.start()
    print("guardian", supervisor._guardian.pid, flush=True)
    time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert process.stdout is not None
    with process.stdout as output:
        told = [output.readline().split() for _ in range(3)]
    pids = [int(word) for line in told for word in line[1:]]
    assert len(pids) == 5
    process.kill()
    process.wait()
    until(lambda: all(gone(pid) for pid in pids), seconds=30)


def test_the_guardian_forgets_who_ended_in_order() -> None:
    assert read_groups(["+7\n", "+8\n", "-7\n", "+9\n", "-9\n"]) == {8}


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortTaken, match=f"^port {port} is taken: "):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)
