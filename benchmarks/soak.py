"""R12: everything that goes wrong, all at once: `python -m benchmarks.soak [--seconds 600]`.

Eight tenants send through twenty numbers: web and clusters as `manage.py run` starts them, and two more
runners beside. Four tenants are in trouble of their own all the time: a dead token, a spoiled template, a
vendor that hangs, odd answers. The other four are innocent. Each minute has a calm part, in which the
innocent must keep 90 % of their rate, and a storm: every fault of the vendor, backends terminated, the
database stopped without warning and started, runners killed and stopped past their lease. Webhooks are
doubled, shuffled and early.

At the end nobody may have been messaged twice or skipped, and every run and incident must be true. The
database is a server of its own, in a folder that is kept with all logs when a bound was missed. Ends with 1
then.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import PROJECT, Filled, Sandbox, fill, go_first, sandbox, say

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

    # -- what is done to it
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

    def kill_a_runner(self) -> None:
        self.dice.choice(self.runners).kill()
        self.note("runner killed")

    def terminate_backends(self) -> None:
        import psycopg

        with psycopg.connect(self.server.conninfo("postgres"), autocommit=True) as db:
            db.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = 'soak' AND pid <> pg_backend_pid() AND random() < 0.5"
            )
        self.note("backends terminated")

    def stop_the_database(self) -> None:
        """Stop it as `pg_ctl stop -m immediate` does, and start it again."""
        began = time.time()
        for postmaster in self.server._processes()[0]:
            postmaster.send_signal(signal.SIGQUIT)
        self.wait(lambda: not any(self.server._processes()), 30, "the database stopped")
        self.note("database stopped")
        time.sleep(1.0)  # of outage
        self.server.ensure()
        self.outages.append((began, time.time()))
        self.note("database started")

    def hang(self) -> None:
        self.vendor.configure(hang_all=2.0)
        self.note("vendor hangs")

    def trouble_the_guilty(self) -> None:
        """Break what is theirs: one token, one template, one tenant's vendor, one tenant's answers."""
        import psycopg

        tenants = self.tenants()
        self.vendor.configure(
            dead_tokens=[f"EAAG-bench-{tenants[0]}"],
            hang_seconds=4.0,
            numbers={
                **{number: HANGS for number in self.numbers_of(2)},  # noqa: C420 - read only
                **{number: ODD for number in self.numbers_of(3)},  # noqa: C420
            },
        )
        try:
            self.sql(
                "UPDATE messaging_broadcaststep SET frozen = jsonb_set(frozen, '{components}', '5')"
                " WHERE tenant_id = %s",
                tenants[1],
            )
        except psycopg.errors.CheckViolation as refused:  # kept out: so much the better
            self.note(f"template not spoiled: {type(refused).__name__}")
        self.note("guilty troubled")

    def storm(self, until: float) -> None:
        """Let everything go wrong until then, on `time.monotonic()`'s clock, one after the other."""
        self.vendor.configure(**STORM)
        self.note("storm")
        steps: list[Callable[[], None]] = [
            *[self.kill_a_runner] * 5,
            self.terminate_backends,
            self.terminate_backends,
            self.hang,
            self.stop_the_database,
            self.stall_a_runner,
        ]
        self.dice.shuffle(steps)
        every = (until - time.monotonic() - SETTLE) / len(steps)
        for step in steps:
            at = time.monotonic() + max(every, 0.5)
            if time.monotonic() > until:
                break
            step()
            while time.monotonic() < at:
                time.sleep(0.1)
                self.keep_running()
        self.vendor.configure(**CALM)
        self.note("calm")

    def stall_a_runner(self) -> None:
        runner = self.dice.choice(self.runners)
        runner.send_signal(signal.SIGSTOP)
        self.note("runner stopped")
        time.sleep(LEASE + 1.0)  # past its lease, which is the fault
        runner.send_signal(signal.SIGCONT)
        self.note("runner continued")

    # -- what is asked
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

    def lowest_share(self) -> float:
        """Return the least share of its rate that an innocent number had in a calm part.

        There is work for every second of it at the full rate, so nobody ever has an excuse.
        """
        lowest = 1.0
        for number in self.innocents():
            at = [message["at"] for message in self.vendor._ask(f"accepted?number={number}")]
            for start, end in self.calm:
                share = sum(start <= one < end for one in at) / (end - start) / RATE
                lowest = min(lowest, share)
                self.breach(
                    share < SHARE and f"{share:.2f}",
                    f"{number} under its rate at {start - self.began:.0f} s",
                )
        return lowest

    def judge(self) -> dict[str, Any]:
        """Compare what the vendor saw with what is in the tables."""
        seen, rows = (
            self.vendor.stats(),
            self.sql("SELECT ltrim(phone, '+'), state, tenant_id FROM messaging_message"),
        )
        times = Counter(message["to"] for message in self.vendor.accepted())
        taken, innocent = set(times), set(self.tenants()[GUILTY:])
        faults: Counter[str] = Counter()
        for number in self.innocents():
            faults.update(seen["numbers"][number]["faults"])
        self.breach(sum(count > 1 for count in times.values()), "people messaged twice")
        self.breach(seen["total"]["attempts_repeated"], "attempts made twice")
        self.breach(sum(state in OPEN and t in innocent for _, state, t in rows), "innocent rows left over")
        self.breach(
            sum(who in taken and state not in TAKEN for who, state, _ in rows), "taken there, not here"
        )
        self.breach(
            sum(who not in taken and state in TAKEN for who, state, _ in rows), "taken here, not there"
        )
        lost = faults["reset_before"] + faults["hang_before"] + faults["hang_all"] + faults["fail_bare"]
        dead = self.did["runner killed"] + self.did["runner stopped"]
        by_kills = dead * len(self.innocents()) * (0.25 * RATE + 1)
        doubt = sum(state == "in_doubt" and t in innocent for _, state, t in rows)
        self.breach(
            doubt > lost + by_kills and doubt, f"innocent rows in doubt, at most {lost + by_kills:.0f}"
        )
        self.breach(
            self.sql(
                "SELECT b.id, count(*) FROM messaging_broadcast b"
                " JOIN messaging_message m ON m.broadcast_id = b.id WHERE b.state = 'completed'"
                " AND m.state IN ('queued', 'claimed', 'sending') GROUP BY b.id"
            ),
            "completed broadcasts with people left over",
        )
        self.breach(self.running(), "runs of nobody")
        self.breach(
            self.sql(
                "SELECT id, claimed FROM engine_run WHERE state = 'done' AND queue = 'messaging'"
                " AND claimed <> done + continued + retried + throttled + failed + in_doubt + held"
                " + given_back"
            ),
            "runs whose counts do not add up",
        )
        self.breach(
            self.sql(
                "SELECT kind, scope, summary FROM engine_incident"
                " WHERE ended_at IS NULL AND tenant_id = ANY(%s)",
                sorted(innocent),
            ),
            "open incidents of the innocent",
        )
        incidents = "SELECT kind, count(*), count(ended_at) FROM engine_incident GROUP BY kind"
        return {
            "accepted": seen["total"]["accepted"],
            "faults": seen["total"]["faults"],
            "faults_of_the_innocent": dict(faults),
            "innocent_in_doubt": doubt,
            "states": dict(Counter(state for _, state, _ in rows)),
            "runs": dict(self.sql("SELECT state, count(*) FROM engine_run GROUP BY state")),
            "incidents": self.sql(incidents),
        }


def work(soak: Soak, seconds: float) -> dict[str, Any]:
    """Run it for so long, let the innocent finish, and judge."""
    soak.web = soak.start("run", "run", "--port", str(soak.port))
    soak.wait(soak.web_answers, 60, "the web answers")
    soak.wait(lambda: soak.vendor.total()["accepted"] > NUMBERS, 60, "somebody sends")
    soak.trouble_the_guilty()
    rounds = max(1, round(seconds / 60))
    round_, began = seconds / rounds, time.monotonic()
    for place in range(rounds):
        end = began + (place + 1) * round_
        calm_until = max(end - round_ * 0.6, time.monotonic() + round_ * 0.2)
        time.sleep(min(SETTLE, round_ * 0.15))  # the last storm's rests and leases
        start = time.time()
        while time.monotonic() < calm_until:
            time.sleep(0.2)
            soak.keep_running()
        soak.calm.append((start, time.time()))
        soak.storm(end)
    soak.wait(lambda: soak.waits() == 0, 120 + seconds / 2, "the innocent are through")
    soak.sql("UPDATE tenants_tenant SET state = 'suspended' WHERE id = ANY(%s)", soak.tenants()[:GUILTY])
    in_hand = "SELECT count(*) FROM messaging_message WHERE state IN ('claimed', 'sending')"
    soak.wait(lambda: soak.sql(in_hand) == [(0,)], 60, "the guilty stop when their tenants are suspended")
    soak.wait(lambda: soak.vendor.stats()["webhooks"]["pending"] == 0, 60, "webhooks delivered")
    unapplied = "SELECT count(*) FROM engine_receipt WHERE applied_at IS NULL"
    soak.wait(lambda: soak.sql(unapplied) == [(0,)], 120, "webhooks applied")
    dead = "SELECT count(*) FROM engine_incident WHERE ended_at IS NULL AND tenant_id = ANY(%s)"
    soak.wait(lambda: soak.sql(dead, soak.tenants()[GUILTY:]) == [(0,)], 100, "incidents of the innocent end")
    soak.wait(lambda: all(map(alive, soak.running())), 100, "runs of dead processes are closed")
    soak.stop()
    lowest = soak.lowest_share()
    return soak.judge() | {"lowest_share": round(lowest, 3)}


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def prepare(folder: Path, stack: ExitStack, seconds: float, seed: int) -> Soak:
    """Start a database and a vendor of its own, and fill in the messages."""
    import psycopg

    from config.localpg import LocalPg

    folder.chmod(0o755)  # the server's own account must reach it
    base = folder / "database"
    base.mkdir()
    base.chmod(0o755)
    server = LocalPg(base).ensure()
    stack.callback(server.stop)
    with psycopg.connect(server.conninfo(), autocommit=True) as db:
        db.execute("CREATE DATABASE soak")
    os.environ["DATABASE_URL"] = server.url().replace("@/ops?", "@/soak?")
    os.environ |= {
        "LEASE_SECONDS": str(LEASE),
        "SEND_TIMEOUT": "3",
        "DJANGO_SETTINGS_MODULE": "config.settings",
    }
    import django
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connections

    django.setup()
    call_command("migrate", verbosity=0)
    port = free_port()
    settings_of_vendor = {
        "latency_ms": [50, 20],
        "rate": 0,
        "webhook_url": f"http://127.0.0.1:{port}/webhooks/whatsapp/",
        "webhook_secret": settings.META_APP_SECRET,
        **WEBHOOKS,
    }
    vendor = stack.enter_context(sandbox(**settings_of_vendor))
    each = int(RATE * max(seconds, 20))
    filled = fill(messages=NUMBERS * each, senders=NUMBERS, tenants=TENANTS, rate=RATE)
    connections.close_all()
    return Soak(folder, server, vendor, filled, port, random.Random(seed))


def main() -> int:
    parser = argparse.ArgumentParser(description="R12, everything at once")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(10**9) if options.seed is None else options.seed
    go_first()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and take along what was started
    folder = Path(tempfile.mkdtemp(prefix="turnout-soak-"))
    print(f"# seed {seed}, evidence in {folder}", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        soak = prepare(folder, stack, options.seconds, seed)
        stack.callback(soak.kill)
        found = work(soak, options.seconds)
    for breach in soak.breaches:
        print(f"BREACH {breach}", file=sys.stderr)
    print(f"# {found['accepted']:,} accepted; {dict(soak.did)}; {found['states']}", file=sys.stderr)
    if not soak.breaches:
        shutil.rmtree(folder, ignore_errors=True)
    return say(
        "R12",
        passed=not soak.breaches,
        seconds=options.seconds,
        seed=seed,
        bound=SHARE,
        figure=found["lowest_share"],
        unit="least share of an innocent number's rate in a calm part",
        done_to_it=dict(soak.did),
        breaches=soak.breaches[:20],
        evidence=str(folder) if soak.breaches else None,
        **found,
    )


if __name__ == "__main__":
    sys.exit(main())
