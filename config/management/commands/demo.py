"""`manage.py demo`: a broadcast goes out before your eyes, the way a real one does."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import threading
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any, Final

import httpx
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection
from django.utils.timezone import now
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from config.demo.scene import ADMIN, Scene, make_admin, make_scene
from config.demo.watching import REACHED, STATUSES, View, look
from config.localpg import PROJECT, DatabaseUnavailable, ensure_database
from config.management.commands.run import ages, first_line, prepare
from config.processes import clusters, web
from config.supervisor import Child, PortTaken, Supervisor, check_port, free_port
from messaging.actions import launch_broadcast
from tenants.errors import ActionRefused
from tenants.scope import tenant_scope

HOST: Final = "127.0.0.1"
SANDBOX_PORT: Final = 9009
START_SECONDS: Final = 90.0
STUCK_SECONDS: Final = 90.0


class Command(BaseCommand):
    help = "Send a WhatsApp broadcast to made-up contacts through everything, against a stand-in for Meta."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--exit", action="store_true", help="end when all is done: exit code 0 or 1")
        parser.add_argument("--tenants", type=int, default=3, help="(default: %(default)s)")
        parser.add_argument("--contacts", type=int, default=1000, help="who get it (default: %(default)s)")
        parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s)")

    def handle(self, *, tenants: int, contacts: int, port: int, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("the demo makes an administrator with a known password: DEBUG must be true")
        if tenants < 1 or contacts < 1:
            raise CommandError("--tenants and --contacts must be at least 1", returncode=2)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)  # SIGINT too: a shell starts background jobs without it
        logging.getLogger().setLevel(logging.WARNING)  # of this process: the bars say the rest
        try:
            check_port(HOST, port)
            perfect = Demo(port, tenants, contacts).run(serve=not options["exit"])
        except (PortTaken, DatabaseUnavailable, ActionRefused, DemoFailed) as error:
            raise CommandError(str(error)) from None
        except DatabaseError as error:
            raise CommandError(f"the database: {first_line(error)}") from None
        except KeyboardInterrupt:
            raise CommandError("stopped") from None
        if not perfect:
            raise CommandError(
                "not everything was accepted and applied; the counts above say what is missing"
            )


class DemoFailed(Exception):
    """Something that the demo started does not do its part."""


class Demo:
    """One showing, from the ports to the last status."""

    def __init__(self, port: int, tenants: int, contacts: int) -> None:
        self.tenants = tenants
        self.contacts = contacts
        self.console = Console()
        self.url = f"http://{HOST}:{port}"
        sandbox_port = free_port(HOST, SANDBOX_PORT)
        self.sandbox = f"http://{HOST}:{sandbox_port}"
        self.log = Log(PROJECT / ".local" / "demo.log")
        env = {"WHATSAPP_URL": self.sandbox, "PUBLIC_URL": self.url}
        self.children = [
            sandbox(sandbox_port, f"{self.url}/webhooks/whatsapp/"),
            web(HOST, port, env),
            *clusters(env),
        ]
        self.supervisor = Supervisor(self.children, self.log, heartbeats=ages)

    def run(self, *, serve: bool) -> bool:
        """Show it; with `serve`, go on serving until ^C. True when all was accepted and applied."""
        with self.step("The database"):
            ensure_database()
            prepare(migrate=True)
            make_admin()
        self.log.open()
        since = now()
        self.supervisor.start()
        try:
            with self.step(f"Web server, sandbox and {len(self.children) - 2} clusters"):
                self.wait_for(f"{self.sandbox}/_sandbox/health")
                self.wait_for(f"{self.url}/health/ready")
            with self.step(f"{self.tenants} tenants, {self.contacts:,} contacts from a CSV file"):
                scene = make_scene(tenants=self.tenants, contacts=self.contacts)
                if scene.report.rejected_count:
                    raise DemoFailed(f"{scene.report.rejected_count} rows of the CSV file were rejected")
            with tenant_scope(scene.tenant.pk):
                launch_broadcast(broadcast_id=scene.broadcast.pk)
            view = self.follow(scene, since)
            self.sum_up(view)
            if view.perfect:
                self.console.print(
                    f"[green]✓[/] {view.reached('accepted'):,} of {view.total:,} accepted, "
                    "every status applied"
                )
            if serve:
                self.serve(scene)
            return view.perfect
        finally:
            self.supervisor.stop()
            connection.close()

    @contextlib.contextmanager
    def step(self, what: str) -> Any:
        began = time.monotonic()
        with self.console.status(f"{what} …"):
            yield
        self.console.print(f"[green]✓[/] {what} [dim]({time.monotonic() - began:.1f} s)[/]")

    def wait_for(self, address: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.supervisor.watch()
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(address, timeout=5, trust_env=False).status_code == 200:
                    return
            if any(child.restarts > 2 for child in self.children):
                break
            time.sleep(0.1)
        raise DemoFailed(f"{address} does not answer; {self.log.path} ends with: {self.log.last()}")

    def follow(self, scene: Scene, since: Any) -> View:
        """Show the broadcast's progress until every message is at its end and every status applied."""
        columns = (
            TextColumn("{task.description:>10}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        before: tuple[Any, ...] = ()
        moved_at = told_at = time.monotonic()
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as bars:
            shown = {what: bars.add_task(what, total=None) for what in ("queued", *REACHED)}
            while True:
                self.supervisor.watch()
                view = look(scene.broadcast, self.sandbox, since)
                bars.update(shown["queued"], total=view.total, completed=view.counts["queued"])
                for what in REACHED:
                    bars.update(shown[what], total=view.total, completed=view.reached(what))
                if view.settled:
                    return view
                here = (view.state, *view.counts.values(), *view.applied.values())
                if here != before:
                    before, moved_at = here, time.monotonic()
                if time.monotonic() - moved_at > STUCK_SECONDS:
                    self.sum_up(view)
                    raise DemoFailed(f"nothing has moved for {STUCK_SECONDS:.0f} s; see {self.log.path}")
                if not self.console.is_terminal and time.monotonic() - told_at >= 2:
                    told_at = time.monotonic()
                    self.console.print(one_line(view), soft_wrap=True)
                time.sleep(0.25)

    def sum_up(self, view: View) -> None:
        self.console.print(one_line(view), soft_wrap=True)
        vendor = view.vendor["total"]
        sent = sum(view.sent_statuses.values())
        applied = sum(view.applied[status] for status in STATUSES)
        self.console.print(
            f"The sandbox accepted {vendor['accepted']:,} messages, at most {vendor['worst_second']} in any "
            f"second, and sent {sent:,} statuses, of which {applied:,} are applied.",
            soft_wrap=True,
        )

    def serve(self, scene: Scene) -> None:
        progress = f"{self.url}/api/v1/broadcasts/{scene.broadcast.pk}/progress/"
        self.console.print(
            Panel(
                f"[bold]{self.url}/admin/[/]   log in as [bold]{ADMIN}[/], password [bold]{ADMIN}[/]\n"
                f"{self.sandbox}/_sandbox/   what the vendor's stand-in counted\n\n"
                f"curl -H 'Authorization: Bearer {scene.api_key}' \\\n  {progress}\n\n"
                f"Output of all processes: {self.log.path}\n^C ends everything.",
                title="Turnout",
                expand=False,
            ),
            soft_wrap=True,
        )
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                self.supervisor.watch()
                time.sleep(0.2)
        self.console.print("\nStopping …")


class Log:
    """Where the children's output goes, so that the bars stay readable."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.lines: list[str] = []

    def open(self) -> None:
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text("")

    def __call__(self, name: str, line: str) -> None:
        with self.lock, self.path.open("a", encoding="utf-8") as file:
            file.write(f"{name:<10} | {line}\n")
            self.lines = [*self.lines[-20:], f"{name}: {line}"]

    def last(self) -> str:
        with self.lock:
            return self.lines[-1] if self.lines else "nothing"


def sandbox(port: int, webhooks: str) -> Child:
    command = [sys.executable, "-m", "sandbox", "--port", str(port)]
    command += ["--webhook-url", webhooks, "--webhook-secret", settings.META_APP_SECRET]
    return Child("sandbox", command)


def one_line(view: View) -> str:
    counts = ", ".join(f"{view.reached(what):,} {what}" for what in REACHED)
    doubt = f", {view.counts['in_doubt']:,} in doubt" if view.counts["in_doubt"] else ""
    return f"{view.total:,} contacts: {view.counts['queued']:,} queued, {counts}{doubt}"


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
