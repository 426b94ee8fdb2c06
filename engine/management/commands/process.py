"""`manage.py process QUEUE`: run one queue's processor in the foreground."""

from __future__ import annotations

import json
import signal
from argparse import ArgumentParser
from math import inf
from typing import Any

from engine.clock.tasks import run_queue
from engine.processor.registry import UnknownQueue, get_queue
from tenants.errors import ActionRefused
from tenants.management.base import TurnoutCommand


class Command(TurnoutCommand):
    help = "Run one queue's processor here, until ^C, until its deadline or until nothing is left."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("queue")
        parser.add_argument("--until-empty", action="store_true", help="End when nothing is left to do.")
        parser.add_argument("--seconds", type=float, default=inf, help="End after this long.")
        parser.add_argument("--json", action="store_true", help="Print the counts as a JSON line at the end.")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            get_queue(options["queue"])
        except UnknownQueue as error:
            raise ActionRefused(str(error)) from None
        signal.signal(signal.SIGTERM, _interrupt)
        report = run_queue(options["queue"], seconds=options["seconds"], until_empty=options["until_empty"])
        if options["json"]:
            self.stdout.write(json.dumps(report.as_dict()))
        else:
            self.stdout.write(
                f"{report.queue}: {report.done:,} done, {report.failed:,} failed, "
                f"{report.retried:,} retried, {report.in_doubt:,} in doubt, {report.remaining:,} left; "
                f"{report.per_second:,.1f}/s"
            )


def _interrupt(*_: Any) -> None:
    """End on SIGTERM as on ^C: what is in flight is settled, the rest goes back."""
    raise KeyboardInterrupt
