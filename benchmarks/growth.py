"""S11: what does much history cost? `python -m benchmarks.growth [--rows 10000000]`.

Sending (claims and settling included) and the first pages of the lists, beside 10,000 messages that were read
long ago and beside `--rows` of them. The bound is 1.5 times. The history is written set-based, 100,000 rows a
statement; ten million take some twenty minutes and 8 GB.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median
from typing import Any

from benchmarks.harness import Sandbox, fill, sandbox, say, scratch_database, sending

BOUND = 1.5
FEW = 10_000
SENT = 10_000
PAGES = (
    "/admin/messaging/message/",
    "/admin/messaging/message/?state__exact=queued",
    "/admin/messaging/broadcast/",
    "/admin/engine/run/",
)


def pages() -> dict[str, float]:
    """Return the median milliseconds of each list's first page."""
    from django.conf import settings
    from django.contrib.auth.models import User
    from django.test import Client

    settings.ALLOWED_HOSTS = ["localhost"]
    client = Client(SERVER_NAME="localhost")
    client.force_login(
        User.objects.filter(is_superuser=True).first() or User.objects.create_superuser("bench")
    )
    taken = {}
    for page in PAGES:
        times = []
        for _ in range(7):
            started = time.perf_counter()
            assert client.get(page).status_code == 200, page
            times.append(time.perf_counter() - started)
        taken[page] = round(median(times) * 1_000, 1)
    return taken


def send(vendor: Sandbox) -> float:
    """Return the milliseconds a message, of a process that sends as fast as it can."""
    vendor.reset()
    fill(messages=SENT, senders=20, rate=1_000)
    with sending(vendor, "--until-empty") as process:
        report = process.ended(seconds=300)
    assert report["done"] == SENT, report
    return float(report["seconds"]) * 1_000 / SENT


def measure(vendor: Sandbox) -> dict[str, Any]:
    return {"ms_per_message": round(median(send(vendor) for _ in range(3)), 3), **pages()}


def main() -> int:
    parser = argparse.ArgumentParser(description="S11, growth")
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    with sandbox(latency_ms=[5, 0], rate=0) as vendor, scratch_database("growth"):
        fill(messages=FEW, senders=20, state="read")
        few = measure(vendor)
        fill(messages=options.rows - FEW, senders=20, state="read")
        many = measure(vendor)
    times = {name: round(many[name] / few[name], 2) for name in few}
    return say(
        "S11",
        passed=max(times.values()) <= BOUND,
        figure=max(times.values()),
        bound=BOUND,
        unit=f"times the cost at {FEW:,} rows of history, at {options.rows:,}",
        times=times,
        few=few,
        many=many,
    )


if __name__ == "__main__":
    sys.exit(main())
