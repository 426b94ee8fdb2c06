"""The page that shows what the sandbox counted."""

from __future__ import annotations

from html import escape
from typing import Any

from sandbox.config import SandboxConfig

_STYLE = """
:root { color-scheme: light dark; --line: #8883; --soft: #888; --good: #15803d; --bad: #dc2626; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin: 0; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; }
p { color: var(--soft); margin: .2rem 0 1.5rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .75rem; margin: 0; }
dl div { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .6rem; text-align: right; }
th { color: var(--soft); font-weight: 500; font-size: .8rem; }
th:first-child, td:first-child, .words { text-align: left; }
.good { color: var(--good); } .bad { color: var(--bad); }
"""


def page(stats: dict[str, Any], config: SandboxConfig) -> bytes:
    """Render the counts; the page asks again every two seconds."""
    total, hooks = stats["total"], stats["webhooks"]
    limit = f"{config.rate:g} a second" if config.rate else "no limit"
    tiles = "".join(
        f'<div><dt>{escape(name)}</dt><dd class="{kind}">{value:,}</dd></div>'
        for name, value, kind in (
            ("arrived", total["arrivals"], ""),
            ("accepted", total["accepted"], ""),
            ("people", total["recipients"], ""),
            (
                "messaged twice",
                total["recipients_repeated"],
                "bad" if total["recipients_repeated"] else "good",
            ),
            ("most in one second", total["worst_second"], _within(total["worst_second"], config.rate)),
            ("refused", sum(total["errors"].values()), ""),
            ("webhooks told", hooks["acknowledged"], ""),
            ("webhooks waiting", hooks["pending"], ""),
        )
    )
    rows = "".join(
        f"<tr><td>{escape(number)}</td><td>{seen['arrivals']:,}</td><td>{seen['accepted']:,}</td>"
        f"<td>{seen['per_second']:,}</td>"
        f'<td class="{_within(seen["worst_second"], config.rates.get(number, config.rate))}">'
        f"{seen['worst_second']:,}</td>"
        f'<td class="{"bad" if seen["recipients_repeated"] else ""}">{seen["recipients_repeated"]:,}</td>'
        f'<td class="words">{_listed(seen["errors"])}</td>'
        f'<td class="words">{_listed(seen["faults"])}</td></tr>'
        for number, seen in stats["numbers"].items()
    )
    table = (
        "<table><thead><tr><th>number</th><th>arrived</th><th>accepted</th><th>per second</th>"
        '<th>most in 1 s</th><th>twice</th><th class="words">refused with</th>'
        '<th class="words">faults</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
        if rows
        else "<p>Nothing has arrived yet.</p>"
    )
    mean, deviation = config.latency_ms
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="2"><title>Sandbox: {total["accepted"]:,} accepted</title>
<style>{_STYLE}</style></head><body>
<h1>WhatsApp sandbox</h1>
<p>Stands in for the real API: {limit} per number, answers after {mean:g} ± {deviation:g} ms.
Counting for {stats["seconds"]:,.0f} s.</p>
<dl>{tiles}</dl>
<h2>Numbers</h2>{table}
<h2>Status webhooks</h2>
<p>{_listed(hooks["by_status"]) or "none"}; {hooks["posts"]:,} posts, {hooks["refused"]:,} refused,
{hooks["unreachable"]:,} found nobody.</p>
</body></html>""".encode()


def _within(worst: int, rate: float) -> str:
    return "" if not rate else "bad" if worst > rate else "good"


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{escape(name)}: {count:,}" for name, count in sorted(counts.items()))
