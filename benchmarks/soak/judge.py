"""Whether the innocent kept their rate, and whether what is in the tables is what the vendor saw."""

from __future__ import annotations

from collections import Counter
from typing import Any

from benchmarks.soak.world import GUILTY, OPEN, RATE, SHARE, TAKEN, Soak


def lowest_share(soak: Soak) -> float:
    """Return the least share of its rate that an innocent number had in a calm part.

    There is work for every second of it at the full rate, so nobody ever has an excuse.
    """
    lowest = 1.0
    for number in soak.innocents():
        at = [message["at"] for message in soak.vendor._ask(f"accepted?number={number}")]
        for start, end in soak.calm:
            share = sum(start <= one < end for one in at) / (end - start) / RATE
            lowest = min(lowest, share)
            soak.breach(
                share < SHARE and f"{share:.2f}",
                f"{number} under its rate at {start - soak.began:.0f} s",
            )
    return lowest


def judge(soak: Soak) -> dict[str, Any]:
    """Compare what the vendor saw with what is in the tables."""
    seen, rows = (
        soak.vendor.stats(),
        soak.sql("SELECT ltrim(phone, '+'), state, tenant_id FROM messaging_message"),
    )
    times = Counter(message["to"] for message in soak.vendor.accepted())
    taken, innocent = set(times), set(soak.tenants()[GUILTY:])
    faults: Counter[str] = Counter()
    for number in soak.innocents():
        faults.update(seen["numbers"][number]["faults"])
    soak.breach(sum(count > 1 for count in times.values()), "people messaged twice")
    soak.breach(seen["total"]["attempts_repeated"], "attempts made twice")
    soak.breach(sum(state in OPEN and t in innocent for _, state, t in rows), "innocent rows left over")
    soak.breach(sum(who in taken and state not in TAKEN for who, state, _ in rows), "taken there, not here")
    soak.breach(sum(who not in taken and state in TAKEN for who, state, _ in rows), "taken here, not there")
    lost = faults["reset_before"] + faults["hang_before"] + faults["hang_all"] + faults["fail_bare"]
    dead = soak.did["runner killed"] + soak.did["runner stopped"]
    by_kills = dead * len(soak.innocents()) * (0.25 * RATE + 1)
    doubt = sum(state == "in_doubt" and t in innocent for _, state, t in rows)
    soak.breach(doubt > lost + by_kills and doubt, f"innocent rows in doubt, at most {lost + by_kills:.0f}")
    soak.breach(
        soak.sql(
            "SELECT b.id, count(*) FROM messaging_broadcast b"
            " JOIN messaging_message m ON m.broadcast_id = b.id WHERE b.state = 'completed'"
            " AND m.state IN ('queued', 'claimed', 'sending') GROUP BY b.id"
        ),
        "completed broadcasts with people left over",
    )
    soak.breach(soak.running(), "runs of nobody")
    soak.breach(
        soak.sql(
            "SELECT id, claimed FROM engine_run WHERE state = 'done' AND queue = 'messaging'"
            " AND claimed <> done + continued + retried + throttled + failed + in_doubt + held"
            " + given_back"
        ),
        "runs whose counts do not add up",
    )
    soak.breach(
        soak.sql(
            "SELECT kind, scope, summary FROM engine_incident WHERE ended_at IS NULL AND tenant_id = ANY(%s)",
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
        "runs": dict(soak.sql("SELECT state, count(*) FROM engine_run GROUP BY state")),
        "incidents": soak.sql(incidents),
    }
