"""`manage.py make_partitions`: make the monthly partitions of the months to come."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from engine.store.partitions import MONTHS_AHEAD, make_partitions
from tenants.management.base import TurnoutCommand


class Command(TurnoutCommand):
    help = "Make the monthly partitions of this month and of those to come. Safe to run again."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--months",
            type=int,
            choices=range(121),
            metavar="N",
            default=MONTHS_AHEAD,
            help="how many months ahead (default: %(default)s)",
        )

    def handle(self, *, months: int, **options: Any) -> None:
        made = make_partitions(months=months)
        self.stdout.write(f"made {', '.join(made)}" if made else "nothing to make: all partitions are there")
