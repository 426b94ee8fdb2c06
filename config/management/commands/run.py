"""`manage.py run`: everything that has to run, held to its work."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import threading
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection

from config.health import heartbeat_ages, unapplied_migrations
from config.localpg import DatabaseUnavailable, ensure_database
from config.processes import clusters, web
from config.supervisor import Child, PortTaken, Supervisor, check_port
from engine.watch.heartbeats import cluster_names, expect_heartbeats

COLOURS = {"run": "1", "web": "36"}
OTHERS = ("33", "32", "35", "34", "31")


class Command(BaseCommand):
    help = "Run the web server and the clusters; restart what dies or hangs; ^C ends all of them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")
        parser.add_argument("--no-web", action="store_true", help="clusters only")
        parser.add_argument("--no-clusters", action="store_true", help="web server only")
        parser.add_argument("--migrate", action="store_true", help="apply missing migrations first")

    def handle(self, *, host: str, port: int, no_web: bool, no_clusters: bool, **options: Any) -> None:
        if no_web and no_clusters:
            raise CommandError("--no-web and --no-clusters leave nothing to run", returncode=2)
        try:
            if not no_web:
                check_port(host, port)
            ensure_database()
            prepare(migrate=options["migrate"])
        except PortTaken as error:
            raise CommandError(str(error)) from None
        except DatabaseError as error:
            raise CommandError(f"the database does not answer: {first_line(error)}") from None
        children = [] if no_web else [web(host, port)]
        children += [] if no_clusters else clusters()
        if not no_web:
            self.stdout.write(f"Turnout at http://{host}:{port}/admin/, ^C ends it")
        supervise(Supervisor(children, Prefixed(children), heartbeats=ages))


class Prefixed:
    """Print each line behind its process's name, whole lines only, whichever thread brings them."""

    def __init__(self, children: list[Child]) -> None:
        self.width = max(len(child.name) for child in children)
        self.colours = COLOURS | dict(
            zip([c.name for c in children if c.name != "web"], OTHERS * 9, strict=False)
        )
        self.lock = threading.Lock()

    def __call__(self, name: str, line: str) -> None:
        label = name.ljust(self.width)
        if sys.stdout.isatty():
            label = f"\033[{self.colours.get(name, '0')}m{label}\033[0m"
        with self.lock:
            sys.stdout.write(f"{label} | {line}\n")
            sys.stdout.flush()


def prepare(*, migrate: bool) -> None:
    """See that the database is as this version needs it, and that the schedules are in it."""
    if missing := unapplied_migrations():
        if not migrate:
            raise CommandError(f"{say_missing(missing)}: run `manage.py migrate`, or `run --migrate`")
        call_command("migrate", verbosity=0)
    call_command("sync_schedules", verbosity=0, stdout=io.StringIO())
    expect_heartbeats()
    if not settings.DEBUG and not settings.STATIC_ROOT.exists():
        call_command("collectstatic", interactive=False, verbosity=0)
    connection.close()


def say_missing(migrations: list[str]) -> str:
    more = f" and {len(migrations) - 1} more" if len(migrations) > 1 else ""
    return f"migrations are not applied ({migrations[0]}{more})"


def supervise(supervisor: Supervisor) -> None:
    """Run until SIGINT or SIGTERM, then end every child."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    supervisor.start()
    try:
        while not stop.wait(0.2):
            supervisor.watch()
    finally:
        supervisor.stop()


def ages() -> dict[str, float]:
    """Read the heartbeats; when the database is away, nothing can be said against any cluster.

    The embedded database is started again, should it be the one that is away.
    """
    try:
        return heartbeat_ages()
    except DatabaseError:
        with contextlib.suppress(DatabaseUnavailable):
            ensure_database()
        return dict.fromkeys(cluster_names(), 0.0)
    finally:
        connection.close()


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
