"""`manage.py sandbox`: the vendors' stand-in alone, as `python -m sandbox` runs it."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from sandbox.__main__ import main


class Command(BaseCommand):
    help = "Run the stand-in for the vendors' APIs (see `manage.py sandbox --help` for its own options)."
    requires_system_checks: list[str] = []

    def run_from_argv(self, argv: list[str]) -> None:
        """Leave the options to the sandbox, which knows them."""
        sys.exit(main(argv[2:]))

    def handle(self, *args: Any, **options: Any) -> None:
        main([str(arg) for arg in args])
