"""`manage.py run` as people run it: real processes, on a database of their own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from django.conf import settings

from config.localpg import PROJECT
from providers import whatsapp
from tests.config.processes import MANAGE, environment, family, gone, manage, until

# -- what cannot run


@pytest.mark.parametrize("command", ["run", "demo"])
def test_a_taken_port_ends_it_before_anything_is_started(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        ended = manage(command, "--port", str(taken), DATABASE_URL="postgres://nobody@127.0.0.1:1/none")
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f"CommandError: port {taken} is taken: stop what listens there, or choose another with --port"
    ]
    assert ended.stdout == ""


CANNOT: list[tuple[str, list[str], dict[str, str], int, str]] = [
    (
        "no database",
        ["run"],
        {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"},
        1,
        "database does not answer",
    ),
    (
        "no database",
        ["status"],
        {"DATABASE_URL": "postgres://nobody@127.0.0.1:1/none"},
        1,
        "database does not answer",
    ),
    ("nothing to run", ["run", "--no-web", "--no-clusters"], {}, 2, "leave nothing to run"),
    ("nobody to send to", ["demo", "--contacts", "0"], {}, 2, "at least 1"),
]


@pytest.mark.parametrize(
    ("args", "env", "code", "words"), [c[1:] for c in CANNOT], ids=[c[0] for c in CANNOT]
)
def test_what_cannot_run_says_so_in_one_line(
    args: list[str], env: dict[str, str], code: int, words: str, port: int
) -> None:
    more = ["--port", str(port)] if args[0] != "status" else []
    ended = manage(*args, *more, **env)
    assert ended.returncode == code
    assert len(ended.stderr.splitlines()) == 1
    assert words in ended.stderr


@pytest.mark.parametrize("command", ["run", "demo"])
def test_bad_settings_are_refused_by_number(command: str, port: int) -> None:
    ended = manage(command, "--port", str(port), LOG_FORMAT="xml", TOKEN_KEYS="nonsense")
    assert ended.returncode == 1
    assert "turnout.E021" in ended.stderr
    assert "turnout.E006" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_demo_is_refused_in_production(port: int) -> None:
    ended = manage("demo", "--port", str(port), "--skip-checks", DEBUG="false")
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "CommandError: the demo makes an administrator with a known password: DEBUG must be true"
    ]


def test_missing_migrations_are_told_and_nothing_is_started(database: str, port: int) -> None:
    ended = manage("run", "--port", str(port), DATABASE_URL=database)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "migrations are not applied" in ended.stderr
    assert "run --migrate" in ended.stderr


# -- what runs


class Running:
    """One `manage.py run`, its output, and its children by name."""

    def __init__(self, port: int, database: str, output: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.output = output
        with output.open("w") as file:
            self.process = subprocess.Popen(
                [*MANAGE, "run", "--migrate", "--port", str(port)],
                env=environment(DATABASE_URL=database),
                cwd=PROJECT,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def get(self, path: str) -> tuple[int, bytes]:
        answer = httpx.get(self.url + path, timeout=5)
        return answer.status_code, answer.content

    def ready(self) -> bool:
        assert self.process.poll() is None, self.output.read_text()
        try:
            return self.get("/health/ready")[0] == 200
        except httpx.HTTPError:
            return False

    def children(self) -> dict[str, psutil.Process]:
        """The leaders by name: "web", and each cluster's."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                name = child.environ().get("Q_CLUSTER_NAME", "")
                line = " ".join(child.cmdline())
            except psutil.Error:
                continue
            if "granian" in line:
                found["web"] = child
            elif name:
                found[name] = child
        return found

    def kill(self, name: str) -> list[int]:
        """Kill a leader once it has workers; return its pid and theirs."""
        until(lambda: len(family(self.children()[name])) > 1, what=f"{name} has workers")
        pids = family(self.children()[name])
        os.kill(pids[0], signal.SIGKILL)
        return pids

    def started_after(self, name: str, pid: int) -> bool:
        child = self.children().get(name)
        return child is not None and child.pid != pid

    def said(self, words: str) -> bool:
        return words in self.output.read_text()


@pytest.fixture
def running(port: int, database: str, tmp_path: Path) -> Iterator[Running]:
    run = Running(port, database, tmp_path / "output")
    until(run.ready, seconds=60, what="ready")
    yield run
    if run.process.poll() is None:
        run.process.send_signal(signal.SIGINT)
        try:
            run.process.wait(30)
        except subprocess.TimeoutExpired:
            run.process.kill()
            raise


@pytest.mark.slow
def test_it_serves_restarts_what_is_killed_and_leaves_nothing_behind(running: Running) -> None:
    until(lambda: {"web", "turnout", "events"} <= running.children().keys(), what="children")
    assert running.get("/admin/login/")[0] == 200
    assert b"turnout_queue_waiting" in running.get("/metrics")[1]

    # a cluster's main process, and the web server's
    for name in ("events", "web"):
        killed = running.kill(name)
        until(partial(running.started_after, name, killed[0]), what=f"{name} again")
        assert all(gone(pid) for pid in killed)
        assert running.said(f"{name} ended (signal SIGKILL)")
    until(running.ready, what="ready again")

    everybody = family(psutil.Process(running.process.pid))
    assert len(everybody) > 10
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) == 0, running.output.read_text()
    assert [pid for pid in everybody if not gone(pid)] == []
    assert "Traceback" not in running.output.read_text()


@pytest.mark.slow
def test_forms_and_bodies_reach_django_through_the_real_server(running: Running, database: str) -> None:
    """A log-in by the form, and an API call with a body of a megabyte."""
    manage = partial(
        subprocess.run, env=environment(DATABASE_URL=database), cwd=PROJECT, check=True, capture_output=True
    )
    user = ["createsuperuser", "--noinput", "--username", "ann", "--email", "ann@example.com"]
    manage(
        [*MANAGE, *user],
        env=environment(DATABASE_URL=database, DJANGO_SUPERUSER_PASSWORD="a-password-of-tests"),
    )
    made = manage([*MANAGE, "create_tenant", "Acme"])
    key = json.loads(made.stdout.splitlines()[-1])["api_key"]
    with httpx.Client(base_url=running.url, timeout=20) as browser:
        browser.get("/admin/login/")
        form = {
            "username": "ann",
            "password": "a-password-of-tests",
            "csrfmiddlewaretoken": browser.cookies["csrftoken"],
            "next": "/admin/",
        }
        answer = browser.post("/admin/login/", data=form)
        assert (answer.status_code, answer.headers.get("location")) == (302, "/admin/")
        assert browser.get("/admin/").status_code == 200

    rows = [{"external_id": f"c{n}", "phone": "+447911123456", "name": "x" * 180} for n in range(5_000)]
    answer = httpx.post(
        running.url + "/api/v1/contacts/import/",
        json=rows,
        headers={"Authorization": f"Bearer {key}"},
        timeout=60,
    )
    assert (answer.status_code, answer.json()["created"]) == (200, 5_000)


@pytest.mark.slow
def test_killed_itself_it_leaves_nothing_behind(running: Running) -> None:
    until(lambda: {"web", "turnout", "events"} <= running.children().keys(), what="children")
    everybody = family(psutil.Process(running.process.pid))
    running.process.kill()
    running.process.wait()
    until(lambda: all(gone(pid) for pid in everybody), seconds=30, what="everybody gone")


@pytest.mark.slow
def test_a_webhook_goes_through_the_cluster_within_seconds(running: Running, database: str) -> None:
    """A handed-in webhook that nothing answers for is applied by the events cluster, at once."""
    body = b'{"object": "whatsapp_business_account", "entry": []}'
    headers = {whatsapp.SIGNATURE_HEADER: whatsapp.sign(body, settings.DEMO_META_APP_SECRET)}
    answer = httpx.post(running.url + "/webhooks/whatsapp/", content=body, headers=headers, timeout=5)
    assert answer.status_code == 200

    def applied() -> Any:
        with psycopg.connect(database) as connection:
            row = connection.execute(
                "SELECT count(*) FROM engine_receipt WHERE applied_at IS NOT NULL"
            ).fetchone()
        return row and row[0]

    until(applied, seconds=20, what="applied")
