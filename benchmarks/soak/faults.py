"""What is done to everything: the vendor's faults, and those of processes and of the database."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from benchmarks.soak.world import CALM, HANGS, LEASE, ODD, SETTLE, STORM, Soak


def kill_a_runner(soak: Soak) -> None:
    soak.dice.choice(soak.runners).kill()
    soak.note("runner killed")


def terminate_backends(soak: Soak) -> None:
    import psycopg

    soak.outages.append((time.time(), time.time() + 1.0))
    with psycopg.connect(soak.server.conninfo("postgres"), autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = 'soak' AND pid <> pg_backend_pid() AND random() < 0.5"
        )
    soak.note("backends terminated")


def stop_the_database(soak: Soak) -> None:
    """Stop it as `pg_ctl stop -m immediate` does, and start it again."""
    began = time.time()
    for postmaster in soak.server._processes()[0]:
        postmaster.send_signal(signal.SIGQUIT)
    soak.wait(lambda: not any(soak.server._processes()), 30, "the database stopped")
    soak.note("database stopped")
    time.sleep(1.0)  # of outage
    soak.server.ensure()
    soak.outages.append((began, time.time()))
    soak.note("database started")


def hang(soak: Soak) -> None:
    soak.vendor.configure(hang_all=2.0)
    soak.note("vendor hangs")


def trouble_the_guilty(soak: Soak) -> None:
    """Break what is theirs: one token, one template, one tenant's vendor, one tenant's answers."""
    import psycopg

    tenants = soak.tenants()
    soak.vendor.configure(
        dead_tokens=[f"EAAG-bench-{tenants[0]}"],
        hang_seconds=4.0,
        numbers={
            **{number: HANGS for number in soak.numbers_of(2)},  # noqa: C420 - read only
            **{number: ODD for number in soak.numbers_of(3)},  # noqa: C420
        },
    )
    try:
        soak.sql(
            "UPDATE messaging_broadcaststep SET frozen = jsonb_set(frozen, '{components}', '5')"
            " WHERE tenant_id = %s",
            tenants[1],
        )
    except psycopg.errors.CheckViolation as refused:  # kept out: so much the better
        soak.note(f"template not spoiled: {type(refused).__name__}")
    soak.note("guilty troubled")


def storm(soak: Soak, until: float) -> None:
    """Let everything go wrong until then, on `time.monotonic()`'s clock, one after the other."""
    soak.vendor.configure(**STORM)
    soak.note("storm")
    steps: list[Callable[[Soak], None]] = [
        *[kill_a_runner] * 5,
        terminate_backends,
        terminate_backends,
        hang,
        stop_the_database,
        stall_a_runner,
    ]
    soak.dice.shuffle(steps)
    every = (until - time.monotonic() - SETTLE) / len(steps)
    for step in steps:
        at = time.monotonic() + max(every, 0.5)
        if time.monotonic() > until:
            break
        step(soak)
        while time.monotonic() < at:
            time.sleep(0.1)
            soak.keep_running()
    soak.vendor.configure(**CALM)
    soak.note("calm")


def stall_a_runner(soak: Soak) -> None:
    runner = soak.dice.choice(soak.runners)
    runner.send_signal(signal.SIGSTOP)
    soak.note("runner stopped")
    time.sleep(LEASE + 1.0)  # past its lease, which is the fault
    runner.send_signal(signal.SIGCONT)
    soak.note("runner continued")
