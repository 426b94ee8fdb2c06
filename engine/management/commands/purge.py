"""`manage.py purge`: delete history that is older than it is kept."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser

from engine.actions.retention import purge_history
from tenants.management.base import TurnoutCommand


class Command(TurnoutCommand):
    help = "Delete applied webhooks, runs, incidents and the like that are older than they are kept."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="count, and delete nothing")

    def handle(self, *, dry_run: bool, **options: Any) -> None:
        counts = purge_history(dry_run=dry_run)
        told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        self.stdout.write(f"{'would delete' if dry_run else 'deleted'} {told}")
