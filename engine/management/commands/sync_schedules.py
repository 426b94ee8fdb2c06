"""`manage.py sync_schedules`: write django-q2's schedules from the one table in code."""

from __future__ import annotations

from typing import Any

from engine.clock.schedules import sync_schedules
from tenants.management.base import TurnoutCommand


class Command(TurnoutCommand):
    help = "Make django-q2's schedules those of the one table in code. Safe to run again."

    def handle(self, *args: Any, **options: Any) -> None:
        counts = sync_schedules()
        self.stdout.write(", ".join(f"{count} {what}" for what, count in counts.items()))
