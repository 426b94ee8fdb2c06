"""S1: a broadcast of 10,000 through one number at 80/s: `python -m benchmarks.broadcast_line_rate`.

The bound is 99 % of the line rate, from the start of the process to the last acceptance, with never more
than 80 in any sliding second and no 130429. The baseline is the usual design in the same run, shortened:
mark 70, send them in tens, wait for each ten, write the 70. Its time for all of them is extrapolated.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

from benchmarks.harness import Sandbox, fill, go_first, sandbox, say, scratch_database, sending

RATE = 80
LATENCY = [150, 50]
SHARE = 0.99
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


def main() -> int:
    parser = argparse.ArgumentParser(description="S1, the line rate of one number")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--usual", type=int, default=700, help="messages of the baseline")
    options = parser.parse_args()
    went_first = go_first()
    with scratch_database("line_rate") as url, sandbox(latency_ms=LATENCY, rate=RATE) as vendor:
        filled = fill(messages=options.messages, rate=RATE)
        started = time.time()
        with sending(vendor, "--until-empty") as process:
            process.watch(seconds=2 * options.messages / RATE + 30)
            report = process.ended()
        seen = vendor.total()
        accepted_at = [message["at"] for message in vendor.accepted()]
        seconds = max(accepted_at) - started
        vendor.reset()
        usual = fill(messages=options.usual, rate=RATE)
        baseline = usual_seconds(vendor, url, usual.lanes[0], usual.addresses[0])
    bound = options.messages / RATE / SHARE
    return say(
        "S1",
        passed=report["seconds"] <= bound
        and seen["worst_second"] <= RATE
        and not seen["errors"]
        and seen["recipients"] == seen["accepted"] == filled.messages == report["done"],
        figure=round(report["seconds"], 2),
        bound=round(bound, 2),
        unit=f"seconds for {options.messages:,} at {RATE}/s, from the run's first look to its closing line",
        from_process_start=round(seconds, 2),
        worst_second=seen["worst_second"],
        refused=seen["errors"],
        first_accepted_after=round(min(accepted_at) - started, 2),
        report=report,
        went_first=went_first,
        line_rate_share=round((len(accepted_at) - 1) / (max(accepted_at) - min(accepted_at)) / RATE, 4),
        peak_mb=round(process.peak),
        baseline={
            "seconds": round(baseline * options.messages / options.usual, 1),
            "extrapolated_from": options.usual,
            "per_second": round(options.usual / baseline, 1),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
