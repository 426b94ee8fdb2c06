"""What runs in a soak, and what may be asked of it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import PROJECT, Filled, Sandbox

TENANTS, NUMBERS, RATE = 8, 20, 10.0
GUILTY = 4
SHARE = 0.9
LEASE = 3.0
RUNNERS = 2
STARTS = 5.0
"""Seconds that a runner needs until it is at work."""
SETTLE = 5.0
"""Seconds after a storm until the innocent must be at their rate again."""
STORM = {
    "fail_graph": 0.05,
    "fail_bare": 0.03,
    "reset_before": 0.03,
    "reset_after": 0.03,
    "hang_before": 0.02,
    "hang_after": 0.02,
    "unreadable": 0.03,
    "burst_every": 3,
    "burst_length": 0.3,
}
CALM = dict.fromkeys(STORM, 0)
HANGS = {"hang_before": 1.0}
ODD = {"odd_error": 0.3, "odd_wamid": 0.3, "odd_shape": 0.1}
WEBHOOKS = {"webhook_copies": 2, "webhook_shuffle": True, "webhook_first": True, "webhook_interval": 0.05}
TAKEN = {"accepted", "sent", "delivered", "read"}
OPEN = {"queued", "claimed", "sending"}


@dataclass
class Soak:
    """One run of it: what runs, what was done to it, and what was found."""

    folder: Path
    server: Any  # config.localpg.LocalPg
    vendor: Sandbox
    filled: Filled
    port: int
    dice: random.Random
    began: float = field(default_factory=time.time)
    runners: list[subprocess.Popen[bytes]] = field(default_factory=list)
    web: subprocess.Popen[bytes] | None = None
    did: Counter[str] = field(default_factory=Counter)
    calm: list[tuple[float, float]] = field(default_factory=list)  # Unix times
    outages: list[tuple[float, float]] = field(default_factory=list)  # of the database, likewise
    born: dict[int, float] = field(default_factory=dict)  # when each runner was started, by its pid
    breaches: list[str] = field(default_factory=list)
    ending: bool = False

    # -- what runs
    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "manage.py", *command],
                cwd=PROJECT,
                env={**os.environ, "WHATSAPP_URL": self.vendor.url},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def keep_running(self) -> None:
        """Start what should run and does not; a runner that ended by itself is a breach."""
        if self.web is None or self.web.poll() is not None:
            if self.web is not None:
                self.breaches.append(f"`manage.py run` ended with {self.web.returncode}")
            self.web = self.start("run", "run", "--port", str(self.port))
        for runner in [one for one in self.runners if one.poll() is not None]:
            self.runners.remove(runner)
            if runner.returncode != -signal.SIGKILL and not self.born_without_database(runner):
                self.breaches.append(f"a runner ended by itself with {runner.returncode}")
        while len(self.runners) < RUNNERS:
            self.runners.append(self.start("runner", "process", "messaging", "--seconds", "86400"))
            self.born[self.runners[-1].pid] = time.time()

    def born_without_database(self, runner: subprocess.Popen[bytes]) -> bool:
        """Say whether it could not begin: a process that finds no database says so and ends."""
        born = self.born[runner.pid]
        return any(start - STARTS < born < end for start, end in self.outages)

    def web_answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/live", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        self.ending = True
        for process in [*self.runners, *([self.web] if self.web else [])]:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.send_signal(signal.SIGTERM)
        for process in [*self.runners, *([self.web] if self.web else [])]:
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                self.breaches.append("a process did not stop within 40 s")

    def kill(self) -> None:
        for process in [*self.runners, *([self.web] if self.web else [])]:
            if process.poll() is None:
                process.kill()

    # -- what is asked
    def note(self, what: str) -> None:
        self.did[what] += 1
        with (self.folder / "events.log").open("a") as log:
            log.write(f"{time.time() - self.began:8.2f} {what}\n")

    def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        import psycopg

        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as db:
            db.execute("SET ROLE turnout_all")
            cursor = db.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def tenants(self) -> list[int]:
        return [row[0] for row in self.sql("SELECT id FROM tenants_tenant ORDER BY id")]

    def numbers_of(self, place: int) -> list[str]:
        return self.filled.addresses[place::TENANTS]

    def innocents(self) -> list[str]:
        return [number for place in range(GUILTY, TENANTS) for number in self.numbers_of(place)]

    def wait(self, met: Callable[[], Any], seconds: float, what: str) -> bool:
        deadline = time.monotonic() + seconds
        while not met():
            if self.web and not self.ending:
                self.keep_running()
            if time.monotonic() > deadline:
                self.breaches.append(f"not within {seconds:g} s: {what}")
                return False
            time.sleep(0.1)
        return True

    def breach(self, wrong: Any, what: str) -> None:
        if wrong:
            self.breaches.append(f"{what}: {wrong}")

    def waits(self) -> int:
        rows = self.sql(
            "SELECT count(*) FROM messaging_message WHERE state = ANY(%s) AND tenant_id = ANY(%s)",
            sorted(OPEN),
            self.tenants()[GUILTY:],
        )
        return int(rows[0][0])

    def running(self) -> list[int]:
        """Return the process of each run that is not closed."""
        rows = self.sql("SELECT process FROM engine_run WHERE state = 'running'")
        return [int(process.rpartition(":")[2]) for (process,) in rows]
