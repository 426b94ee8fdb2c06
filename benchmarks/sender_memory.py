"""S3: memory of the sending process with a million messages queued: `python -m benchmarks.sender_memory`.

On one number, and spread over 300. The bound is 200 MB at the peak, and flat: the last third of the run
may not need more than the middle one did, give or take a few megabytes. The baseline is what the process
takes with next to nothing queued.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchmarks.harness import Sandbox, fill, sandbox, say, scratch_database, sending

BOUND_MB = 200
FLAT_MB = 10


def measure(vendor: Sandbox, *, seconds: float) -> dict[str, Any]:
    """Let a process send for so long; return its memory and what it did."""
    with sending(vendor, "--seconds", str(seconds)) as process:
        process.watch(seconds=seconds + 60, every=0.25)
        report = process.ended()
    third = len(process.memory) // 3
    middle, last = process.memory[third : 2 * third], process.memory[2 * third :]
    return {
        "peak_mb": round(process.peak),
        "grown_mb": round(max(mb for _, mb in last) - max(mb for _, mb in middle), 1),
        "sent": report["done"],
        "left": report["remaining"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="S3, memory")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=40)
    options = parser.parse_args()
    runs: dict[str, dict[str, Any]] = {}
    with sandbox(latency_ms=[50, 10], rate=0) as vendor:
        for name, senders, messages in (
            ("empty", 1, 10),
            ("1 number", 1, options.messages),
            ("300 numbers", 300, options.messages),
        ):
            with scratch_database("memory"):
                fill(messages=messages, senders=senders, rate=1_000 if senders == 1 else 80)
                runs[name] = measure(vendor, seconds=options.seconds if messages > 10 else 5)
    baseline = runs.pop("empty")
    peak = max(run["peak_mb"] for run in runs.values())
    return say(
        "S3",
        passed=peak <= BOUND_MB and all(run["grown_mb"] <= FLAT_MB for run in runs.values()),
        figure=peak,
        bound=BOUND_MB,
        unit=f"MB at the peak with {options.messages:,} messages queued",
        runs=runs,
        baseline={"peak_mb_with_10_queued": baseline["peak_mb"]},
    )


if __name__ == "__main__":
    sys.exit(main())
