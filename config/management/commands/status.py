"""`manage.py status`: how everything stands, for people or as JSON."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.core.serializers.json import DjangoJSONEncoder
from django.db import DatabaseError
from rich.console import Console
from rich.table import Table

from config.health import unapplied_migrations
from config.management.commands.run import first_line, say_missing
from config.overview import MOST_LANES, overview
from engine.watch.heartbeats import SILENT_SECONDS

RUN_COLUMNS = ("id", "queue", "state", "seconds", "done", "failed", "retried", "in_doubt", "per_second")
WIDE = 140  # where it is not a terminal that says how wide it is


class Command(BaseCommand):
    help = "Show queues, lanes and their allowances, open incidents, last runs and the clusters' heartbeats."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if missing := unapplied_migrations():
                raise CommandError(f"{say_missing(missing)}: run `manage.py migrate`")
            now = overview()
        except DatabaseError as error:
            raise CommandError(f"the database does not answer: {first_line(error)}") from None
        if options["json"]:
            self.stdout.write(json.dumps(now, cls=DjangoJSONEncoder))
        else:
            width = None if self.stdout.isatty() else WIDE
            show(Console(file=self.stdout, width=width, highlight=False), now)  # type: ignore[arg-type]


def show(console: Console, now: dict[str, Any]) -> None:
    console.print(
        table(
            "Queues",
            ("queue", "waiting", "oldest due"),
            [
                (
                    q["queue"],
                    f"{q['waiting']:,}" + ("+" if q["capped"] else ""),
                    duration(q["oldest_due_seconds"]),
                )
                for q in now["queues"]
            ],
        )
    )
    console.print(
        table(
            "Clusters",
            ("cluster", "seen working"),
            [(c["cluster"], seen(c["seen_seconds_ago"])) for c in now["clusters"]],
        )
    )
    lanes = "Lanes" if now["lanes_total"] <= MOST_LANES else f"Lanes ({MOST_LANES} of {now['lanes_total']:,})"
    console.print(
        table(
            lanes,
            ("lane", "queue", "tenant", "state", "per second", "used", "token"),
            [
                (
                    lane["name"],
                    lane["queue"],
                    lane["tenant"],
                    lane["state"],
                    rate(lane),
                    allowance(lane),
                    lane["token"],
                )
                for lane in now["lanes"]
            ],
        )
    )
    console.print(
        table(
            "Open incidents",
            ("since", "severity", "kind", "what"),
            [
                (f"{i['opened_at']:%d %b %H:%M}", i["severity"], i["kind"], i["summary"])
                for i in now["incidents"]
            ],
        )
    )
    console.print(
        table(
            "Last runs",
            tuple(name.replace("_", " ") for name in RUN_COLUMNS),
            [tuple(str(run[name]) for name in RUN_COLUMNS) for run in now["runs"]],
        )
    )


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table | str:
    if not rows:
        return f"{title}: none"
    made = Table(*columns, title=title, title_justify="left")
    for row in rows:
        made.add_row(*row)
    return made


def rate(lane: dict[str, Any]) -> str:
    if lane["rate_per_second"] is None:
        return "no limit"
    now, full = lane["rate_now"], lane["rate_per_second"]
    return f"{full:g}" if now is None or now >= full else f"{now:.1f} of {full:g}"


def allowance(lane: dict[str, Any]) -> str:
    return "no limit" if lane["allowance"] is None else f"{lane['used']:,} of {lane['allowance']:,}"


def seen(age: float) -> str:
    return f"{duration(age)} ago" + (" (silent)" if age > SILENT_SECONDS else "")


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
