"""S2: messages per CPU-second of the sending process, 300 numbers: `python -m benchmarks.sender_throughput`.

Held against a Node.js sender built the usual way (usual_sender.mjs), in the same run, against the same
sandbox and the same tables. Counted is the CPU, user and system, from the first query to the last, claims
and settling included; starting up is left out on both sides. Needs node and npm, which fetch the baseline's
three libraries into a temporary folder; without them the ratio is missing and so is the pass.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import unquote, urlsplit

from benchmarks.harness import Filled, Sandbox, fill, running, sandbox, say, scratch_database

RATIO = 2.0
TARGET = 5_200
LIBRARIES = ("axios@1.7.9", "agentkeepalive@4.6.0", "pg@8.13.1")
SENDERS, IN_FLIGHT, RATE = 300, 10, 1_000.0


def send_here() -> None:
    """Send what is queued in this process, and print what it took."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    from engine.clock.tasks import run_queue

    before = resource.getrusage(resource.RUSAGE_SELF)
    report = run_queue("messaging", seconds=300, until_empty=True)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"sent": report.done, "seconds": report.seconds, "cpu": cpu}))


def ours(vendor: Sandbox, messages: int) -> dict[str, Any]:
    vendor.reset()
    fill(messages=messages, senders=SENDERS, rate=RATE, max_in_flight=IN_FLIGHT)
    with running([sys.executable, "-m", "benchmarks.sender_throughput", "--here"], vendor) as process:
        process.watch(seconds=300, every=0.2)
        used = process.ended()
    return _checked(used, vendor, messages) | {"peak_mb": process.peak}


def usual(vendor: Sandbox, messages: int, folder: Path, url: str) -> dict[str, Any]:
    vendor.reset()
    filled = fill(messages=messages, senders=SENDERS, rate=RATE, max_in_flight=IN_FLIGHT)
    with running(["node", str(folder / "usual_sender.mjs")], vendor, **_node(filled, url)) as process:
        process.watch(seconds=300)
        used = process.ended()
    return _checked(used, vendor, messages)


def _node(filled: Filled, url: str) -> dict[str, str]:
    """Tell the baseline its numbers, and the database's socket in its driver's own words."""
    parts = urlsplit(url)
    lanes = [
        {"lane": lane, "address": address}
        for lane, address in zip(filled.lanes, filled.addresses, strict=True)
    ]
    found = {"LANES": json.dumps(lanes), "DATABASE_URL": url}
    if parts.query.startswith("host="):
        found["DATABASE_URL"] = ""
        found["PGHOST"] = unquote(parts.query.removeprefix("host=").partition("&")[0])
        found |= {"PGUSER": parts.username or "", "PGDATABASE": parts.path.lstrip("/"), "PGPORT": "5432"}
    return found


def _checked(used: dict[str, Any], vendor: Sandbox, messages: int) -> dict[str, Any]:
    seen = vendor.total()
    assert seen["recipients"] == seen["accepted"] == used["sent"] == messages, (used, seen)
    return used | {"per_cpu_second": messages / used["cpu"]}


def install(folder: Path) -> str:
    """Install the baseline into `folder`; returns why that was not possible."""
    if not shutil.which("node") or not shutil.which("npm"):
        return "node and npm are not on this machine"
    shutil.copy(Path(__file__).with_name("usual_sender.mjs"), folder)
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *LIBRARIES]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    return f"npm install failed: {done.stderr.strip()[-300:]}" if done.returncode else ""


def main() -> int:
    parser = argparse.ArgumentParser(description="S2, messages per CPU-second")
    parser.add_argument("--messages", type=int, default=120_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--latency", default="0,0", help="the sandbox's, in ms: mean, standard deviation")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        send_here()
        return 0
    latency = [float(part) for part in options.latency.split(",")]
    with (
        tempfile.TemporaryDirectory() as folder,
        scratch_database("throughput") as url,
        sandbox(latency_ms=latency, rate=0) as vendor,
    ):
        missing = install(Path(folder))
        if missing:
            print(f"S2: NO BASELINE, SO NO RATIO: {missing}", file=sys.stderr)
        our_runs, usual_runs = [], []
        for _ in range(options.rounds):
            our_runs.append(ours(vendor, options.messages))
            if not missing:
                usual_runs.append(usual(vendor, options.messages // 2, Path(folder), url))
    figure = median(run["per_cpu_second"] for run in our_runs)
    baseline = median(run["per_cpu_second"] for run in usual_runs) if usual_runs else None
    return say(
        "S2",
        passed=baseline is not None and figure >= RATIO * baseline,
        figure=round(figure),
        unit=f"messages per CPU-second of the sending process, {SENDERS} numbers, {IN_FLIGHT} in flight each",
        ratio=round(figure / baseline, 2) if baseline else None,
        bound=RATIO,
        target=TARGET,
        messages=options.messages,
        per_second=round(options.messages / median(run["seconds"] for run in our_runs)),
        peak_mb=round(max(run["peak_mb"] for run in our_runs)),
        baseline={
            "per_cpu_second": baseline and round(baseline),
            "libraries": LIBRARIES,
            "missing": missing,
        },
    )


if __name__ == "__main__":
    sys.exit(main())
