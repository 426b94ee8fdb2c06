import json
import signal
import sys
from argparse import ArgumentParser
from math import inf
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from engine.processors import UnknownQueue, get_queue
from engine.tasks import run_queue


class Command(BaseCommand):
    help = "Run one queue's processor here, until ^C, until its deadline or until nothing is left."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("queue")
        parser.add_argument("--until-empty", action="store_true", help="End when nothing is left to do.")
        parser.add_argument("--seconds", type=float, default=inf, help="End after this long.")
        parser.add_argument(
            "--json", action="store_true", help="Print the counts as one JSON line at the end."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            get_queue(options["queue"])
        except UnknownQueue as error:
            raise CommandError(str(error)) from None
        signal.signal(signal.SIGTERM, _interrupt)
        until_empty, deadline = options["until_empty"], options["seconds"]
        report = run_queue(
            options["queue"], seconds=deadline, until_empty=until_empty or (deadline == inf and False)
        )
        if options["json"]:
            self.stdout.write(json.dumps(report.as_dict()))
        else:
            self.stdout.write(
                f"{report.queue}: {report.done:,} done, {report.failed:,} failed, {report.retried:,} retried, "
                f"{report.in_doubt:,} in doubt, {report.remaining:,} left; {report.per_second:,.1f}/s"
            )
        sys.stdout.flush()


def _interrupt(*_: Any) -> None:
    """End on SIGTERM as on ^C: what is in flight is settled, the rest goes back."""
    raise KeyboardInterrupt
