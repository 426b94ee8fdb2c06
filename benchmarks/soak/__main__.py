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
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness import fill, go_first, sandbox, say
from benchmarks.soak.faults import storm, trouble_the_guilty
from benchmarks.soak.judge import judge, lowest_share
from benchmarks.soak.world import GUILTY, LEASE, NUMBERS, RATE, SETTLE, SHARE, TENANTS, WEBHOOKS, Soak


def work(soak: Soak, seconds: float) -> dict[str, Any]:
    """Run it for so long, let the innocent finish, and judge."""
    soak.web = soak.start("run", "run", "--port", str(soak.port))
    soak.wait(soak.web_answers, 60, "the web answers")
    soak.wait(lambda: soak.vendor.total()["accepted"] > NUMBERS, 60, "somebody sends")
    trouble_the_guilty(soak)
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
        storm(soak, end)
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
    lowest = lowest_share(soak)
    return judge(soak) | {"lowest_share": round(lowest, 3)}


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
