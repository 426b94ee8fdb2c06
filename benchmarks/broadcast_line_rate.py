"""S1: a broadcast of 10,000 through one number at 80/s: `python -m benchmarks.broadcast_line_rate`.

The vendor counts in a sliding second what arrives, each held back by up to 15 ms. Measured three times:

- `one`: one process. 98 % of the line rate between the first and the last acceptance, at most 0.3 % refused,
  and what left never above 80 in a second; seen on arrival, of which 3 % may come from a neighbouring second.
- `hand_overs`: the same through a django-q2 cluster, whose ticks end after 50 s and hand over.
- `lower`: a number whose true limit is 40 behind a set 80: 90 % of 40 from the tenth second on, refusals
  under 1.5 %.

The baseline is the usual design in the same run, shortened: mark 70, send them in tens, wait for each ten,
write the 70. Its time for all of them is extrapolated.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.harness import PROJECT, Sandbox, fill, go_first, sandbox, say, scratch_database, sending

RATE = 80
LATENCY = [150, 50]
JITTER_MS = 15
SHARE, REFUSED = 0.98, 0.003
TRUE_LIMIT, LOWER_SHARE, LOWER_REFUSED, FROM = 40, 0.9, 0.015, 10.0
ARRIVE = 1.03
GROUP, CHUNK = 70, 10


def usual_seconds(vendor: Sandbox, url: str, lane: int, address: str) -> float:
    """Send one lane's messages the usual way; returns the seconds from the first to the last answer."""
    import psycopg

    from providers.http import Http
    from providers.whatsapp import read_send, send_template

    async def work() -> float:
        with psycopg.connect(url, autocommit=True) as db:
            async with Http() as http:
                started = time.monotonic()
                while rows := db.execute(
                    "UPDATE messaging_message SET state = 'sending' WHERE id IN (SELECT id"
                    " FROM messaging_message WHERE lane_id = %s AND state = 'queued' ORDER BY id LIMIT %s)"
                    " RETURNING id, phone",
                    [lane, GROUP],
                ).fetchall():
                    calls = [
                        send_template(
                            base_url=vendor.url,
                            version="v25.0",
                            phone_number_id=address,
                            token="usual",
                            to=phone,
                            template="offer",
                            language="en",
                            attempt=str(row),
                        )
                        for row, phone in rows
                    ]
                    for start in range(0, len(calls), CHUNK):
                        answers = await asyncio.gather(*map(http.send, calls[start : start + CHUNK]))
                        assert all(type(read_send(answer)).__name__ == "Done" for answer in answers)
                    db.execute(
                        "UPDATE messaging_message SET state = 'accepted' WHERE id = ANY(%s)",
                        [[row for row, _ in rows]],
                    )
                return time.monotonic() - started

    return asyncio.run(work())


def measure(vendor: Sandbox, messages: int, *, limit: float, hand_overs: bool = False) -> dict[str, Any]:
    """Send a broadcast at a set 80/s to a vendor that takes `limit`; return what the vendor saw.

    With `hand_overs`, a cluster's workers do so, tick after tick.
    """
    vendor.reset()
    vendor.configure(rate=limit)
    filled = fill(messages=messages, rate=RATE)
    patience = 3 * messages / limit + 60
    if hand_overs:
        with cluster(vendor):
            deadline = time.monotonic() + patience
            while vendor.total()["accepted"] < messages and time.monotonic() < deadline:
                time.sleep(0.5)
        peak = 0.0
    else:
        with sending(vendor, "--until-empty") as process:
            process.watch(seconds=patience, every=0.1)
            process.ended()
            peak = process.peak
    seen = vendor.total()
    at = sorted(message["at"] for message in vendor.accepted())
    late = [one - at[0] for one in at if one - at[0] >= FROM]
    assert seen["recipients"] == seen["accepted"] == filled.messages, seen
    return {
        "seconds": round(at[-1] - at[0], 2),
        "share": round((len(at) - 1) / (at[-1] - at[0]) / min(limit, RATE), 4),
        "share_from_10_s": round(len(late) / (late[-1] - FROM) / limit, 4) if late else None,
        "refused": round(seen["errors"].get("130429", 0) / seen["arrivals"], 5),
        "worst_second": seen["worst_second"],
        "peak_mb": round(peak),
    }


@contextmanager
def cluster(vendor: Sandbox) -> Iterator[None]:
    """Run the messaging cluster, asked for one tick; the run that ends asks for the next."""
    from django.db import transaction

    from engine.clock.schedules import enqueue

    process = subprocess.Popen(
        [sys.executable, "manage.py", "qcluster", "--skip-checks"],
        env={**os.environ, "Q_CLUSTER_NAME": "messaging", "WHATSAPP_URL": vendor.url},
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with transaction.atomic():
            enqueue("messaging")
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description="S1, the line rate of one number")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--usual", type=int, default=700, help="messages of the baseline")
    options = parser.parse_args()
    went_first = go_first()
    with (
        scratch_database("line_rate") as url,
        sandbox(latency_ms=LATENCY, rate=RATE, jitter_ms=JITTER_MS) as vendor,
    ):
        one = measure(vendor, options.messages, limit=RATE)
        handed = measure(vendor, max(options.messages // 2, 5_500), limit=RATE, hand_overs=True)
        lower = measure(vendor, options.messages // 4, limit=TRUE_LIMIT)
        vendor.reset()
        vendor.configure(rate=RATE)
        usual = fill(messages=options.usual, rate=RATE)
        baseline = usual_seconds(vendor, url, usual.lanes[0], usual.addresses[0])
    full = [one, handed]
    return say(
        "S1",
        passed=all(run["share"] >= SHARE and run["refused"] <= REFUSED for run in full)
        and all(run["worst_second"] <= RATE * ARRIVE for run in full)
        and (lower["share_from_10_s"] or 0) >= LOWER_SHARE
        and lower["refused"] < LOWER_REFUSED,
        figure=min(run["share"] for run in full),
        bound=SHARE,
        unit=f"share of {RATE}/s between the first and the last acceptance",
        messages=options.messages,
        one=one,
        hand_overs=handed,
        lower=lower,
        went_first=went_first,
        baseline={
            "seconds": round(baseline * options.messages / options.usual, 1),
            "extrapolated_from": options.usual,
            "per_second": round(options.usual / baseline, 1),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
