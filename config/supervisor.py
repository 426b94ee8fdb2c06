"""Keep child processes running: start, watch, restart, and end all of them together.

Each child leads a process group of its own, so that ^C reaches the supervisor alone, and that what a
dead child leaves behind can be found. `config.guardian` ends them if the supervisor is killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Final

import httpx

from config.guardian import end_groups
from config.localpg import PROJECT
from engine.clock.stopping import STOP_FD

GRACE_SECONDS: Final = 8.0
LOOK_SECONDS: Final = 15.0
WEDGED_SECONDS: Final = 180.0
UNANSWERED_SECONDS: Final = 30.0
ANSWER_SECONDS: Final = 5.0
BACKOFF: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
STEADY_SECONDS: Final = 60.0  # one that ran this long starts over at the shortest wait

Say = Callable[[str, str], None]
"""Take one line of a child's output: the child's name, the line."""


class PortTaken(OSError):
    """Something else listens there."""


def check_port(host: str, port: int) -> None:
    """Raise PortTaken, with one clear line, unless a server could listen there now."""
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"port {port} is taken: stop what listens there, or choose another with --port"
            ) from None
        raise PortTaken(f"cannot listen on {host}:{port}: {error.strerror}") from None


def free_port(host: str, wanted: int) -> int:
    """Return `wanted` if a server could listen there, else a port that is free now."""
    try:
        check_port(host, wanted)
    except PortTaken:
        with socket.create_server((host, 0)) as server:
            free: int = server.getsockname()[1]
            return free
    return wanted


@dataclass(slots=True)
class Child:
    """One process to keep running.

    What shows that it works: `cluster` names its heartbeat, `address` answers 200 over HTTP.
    """

    name: str
    command: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""
    address: str = ""

    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    failures: int = 0
    restarts: int = 0
    silent_since: float | None = None


class Supervisor:
    """Holds children to their work. `start`, then `watch` a few times a second, then `stop`."""

    def __init__(
        self,
        children: Sequence[Child],
        say: Say,
        *,
        heartbeats: Callable[[], Mapping[str, float]] | None = None,
    ) -> None:
        self.children = list(children)
        self.say = say
        self.heartbeats = heartbeats
        self._guardian: subprocess.Popen[bytes] | None = None
        self._stop_pipe: tuple[int, int] | None = None
        self._looked_at = time.monotonic()

    def start(self) -> None:
        self._stop_pipe = os.pipe()
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "config.guardian"],
            stdin=subprocess.PIPE,
            cwd=PROJECT,
            start_new_session=True,
        )
        for child in self.children:
            self._start(child)

    def watch(self) -> None:
        """Restart what has died, and what no longer beats."""
        now = time.monotonic()
        for child in self.children:
            if child.process is None:
                if now >= child.start_at:
                    child.restarts += 1
                    self._start(child)
            elif child.process.poll() is not None:
                self._bury(child)
        if now - self._looked_at > LOOK_SECONDS:
            self._looked_at = now
            self._end_wedged(self.heartbeats() if self.heartbeats else {})

    def stop(self, *, grace: float = GRACE_SECONDS) -> None:
        """End every child: each leader is asked, and after `grace` seconds what is left is killed.

        The clusters first, so that what is in flight still finds whom it asked and who takes the answer.
        """
        if self._stop_pipe:
            os.close(self._stop_pipe[1])  # the runs under way see it and wind down
        self._end([child for child in self.children if child.cluster], grace)
        self._end(self.children, grace)
        if self._guardian and self._guardian.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._guardian.stdin.close()
            self._guardian.wait()
        if self._stop_pipe:
            os.close(self._stop_pipe[0])
            self._stop_pipe = None

    def _start(self, child: Child) -> None:
        assert self._stop_pipe is not None
        child.process = subprocess.Popen(
            child.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", STOP_FD: str(self._stop_pipe[0]), **child.env},
            pass_fds=[self._stop_pipe[0]],
            start_new_session=True,
        )
        child.started_at, child.silent_since = time.monotonic(), None
        self._tell_guardian("+", child.process.pid)
        assert child.process.stdout is not None
        threading.Thread(target=self._read, args=(child.name, child.process.stdout), daemon=True).start()

    def _end(self, children: Sequence[Child], grace: float) -> None:
        processes = [child.process for child in children if child.process is not None]
        for child in children:
            if child.process is not None:
                self.say("run", f"stopping {child.name}")
        reapers = [threading.Thread(target=process.wait, daemon=True) for process in processes]
        for reaper in reapers:
            reaper.start()  # a zombie still counts as a member of its group
        end_groups({process.pid for process in processes}, grace=grace)
        for reaper in reapers:
            reaper.join(5)
        for child in children:
            child.process = None

    def _bury(self, child: Child) -> None:
        """Clear away what a dead child left, and set the time of its next start."""
        assert child.process is not None
        code, pid = child.process.returncode, child.process.pid
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        self._tell_guardian("-", pid)
        child.process = None
        now = time.monotonic()
        child.failures = 0 if now - child.started_at > STEADY_SECONDS else child.failures
        wait = BACKOFF[min(child.failures, len(BACKOFF) - 1)]
        child.failures += 1
        child.start_at = now + wait
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.say("run", f"{child.name} ended ({how}); starting it again in {wait:g} s")

    def _end_wedged(self, ages: Mapping[str, float]) -> None:
        """End what runs and does not work any more; `watch` then starts it again.

        A cluster that has not beaten for three minutes: django-q2 stops without a word when a worker dies
        at the wrong moment (docs/operating.md). A server that has not answered for half a minute.
        """
        now = time.monotonic()
        for child in self.children:
            if child.process is None:
                continue
            silent, allowed = 0.0, WEDGED_SECONDS
            if child.cluster and self.heartbeats:
                silent = min(ages.get(child.cluster, float("inf")), now - child.started_at)
            elif child.address:
                silent, allowed = self._silence(child, now), UNANSWERED_SECONDS
            if silent > allowed:
                self.say("run", f"{child.name} has shown no sign of work for {silent:.0f} s: ending it")
                end_groups({child.process.pid}, grace=2)

    def _silence(self, child: Child, now: float) -> float:
        """Ask a server whether it is there; return for how long it has not been."""
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(child.address, timeout=ANSWER_SECONDS, trust_env=False).status_code == 200:
                child.silent_since = None
                return 0.0
        child.silent_since = child.silent_since or now
        return time.monotonic() - max(child.silent_since, child.started_at)

    def _tell_guardian(self, sign: str, pid: int) -> None:
        if self._guardian and self._guardian.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._guardian.stdin.write(f"{sign}{pid}\n".encode())
                self._guardian.stdin.flush()

    def _read(self, name: str, output: IO[bytes]) -> None:
        with output:
            for line in output:
                self.say(name, line.decode(errors="replace").rstrip("\n"))
