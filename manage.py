#!/usr/bin/env python
"""Run one of Turnout's commands: `python manage.py help`."""

import os
import sys

# `demo` and `run` look first whether their port is free.
NEED_NO_DATABASE = {
    "check",
    "collectstatic",
    "demo",
    "diffsettings",
    "help",
    "run",
    "sandbox",
    "spectacular",
    "version",
}


def main(argv: list[str]) -> int:
    """Run the command that argv names; a user's mistake is one line and exit code 1."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line

        from config.localpg import DatabaseUnavailable, ensure_database
    except ImportError as error:
        print(f"error: {error}: run `make install`, then .venv/bin/python manage.py", file=sys.stderr)
        return 1
    try:
        asks_for_help = {"-h", "--help", "--version"} & set(argv)
        if len(argv) > 1 and not asks_for_help and argv[1] not in NEED_NO_DATABASE:
            ensure_database()
        execute_from_command_line(argv)
    except (DatabaseUnavailable, ImproperlyConfigured) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
