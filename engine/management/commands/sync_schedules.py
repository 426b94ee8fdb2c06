from typing import Any

from django.core.management.base import BaseCommand

from engine.schedules import sync_schedules


class Command(BaseCommand):
    help = "Make django-q2's schedules those of the one table in code. Safe to run again."

    def handle(self, *args: Any, **options: Any) -> None:
        counts = sync_schedules()
        self.stdout.write(", ".join(f"{count} {what}" for what, count in counts.items()))
