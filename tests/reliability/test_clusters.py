"""R10: real django-q2 clusters: a task cut off, a worker killed, the broker lost and back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.harness import PROJECT, Sandbox, fill, sandbox
from engine.clock.schedules import enqueue
from engine.clock.tasks import watch
from engine.inbox.receipts import store
from engine.models import Receipt, Run, TickRequest
from tests.reliability.conftest import LEASE_SECONDS
from tests.reliability.ledger import assert_nobody_twice, counts, until


@pytest.fixture(autouse=True)
def short_leases(settings: Any) -> None:
    """The minute's watch, done here, reckons with the leases that the clusters have."""
    settings.LEASE_SECONDS = LEASE_SECONDS


WEBHOOK = b'{"object": "whatsapp_business_account", "entry": []}'


@contextmanager
def cluster(name: str, vendor: Sandbox | None = None, **env: str) -> Iterator[psutil.Process]:
    """Run one django-q2 cluster; at the end nothing of it is left."""
    urls = {"WHATSAPP_URL": vendor.url} if vendor else {}
    process = subprocess.Popen(
        [sys.executable, "manage.py", "qcluster", "--skip-checks"],
        env={**os.environ, "Q_CLUSTER_NAME": name, **urls, **env},
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


SHORT = {"DJANGO_SETTINGS_MODULE": "tests.reliability.short_clusters"}


def ended_runs() -> list[Run]:
    return list(Run.objects.exclude(state="running").order_by("id"))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_that_django_q2_cuts_off_is_not_called_done_and_the_next_goes_on() -> None:
    with sandbox(latency_ms=[50, 10], rate=0) as vendor, cluster("messaging", vendor, **SHORT):
        fill(messages=300, rate=20)
        enqueue("messaging")
        until(_first_run_ended, seconds=60, what="the first run has ended")
        cut = ended_runs()[0]
        assert cut.state in (Run.State.FAILED, Run.State.LOST), cut.state
        assert cut.error
        assert 0 < cut.done < 300
        assert cut.ended_at is not None
        assert counts()["queued"] > 0

        enqueue("messaging")
        until(lambda: Run.objects.filter(pk__gt=cut.pk, done__gt=0).exists(), seconds=60, what="the next run")
        assert_nobody_twice(vendor)


def _first_run_ended() -> bool:
    watch()  # as each minute does
    return bool(ended_runs())


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_whose_worker_is_killed_is_lost_and_the_next_goes_on() -> None:
    with sandbox(latency_ms=[50, 10], rate=0) as vendor, cluster("messaging", vendor):
        fill(messages=300, rate=20)
        enqueue("messaging")
        until(lambda: Run.objects.filter(done__gt=20).exists(), seconds=60, what="a run under way")
        run = Run.objects.get()
        os.kill(int(run.process.rpartition(":")[2]), signal.SIGKILL)

        def lost() -> bool:
            watch()
            return Run.objects.filter(pk=run.pk, state=Run.State.LOST).exists()

        until(lost, seconds=60, what="the run is closed as lost")
        run.refresh_from_db()
        assert "died" in run.error
        assert run.done > 0
        enqueue("messaging")
        until(lambda: counts()["accepted"] > run.done + 40, seconds=60, what="the next run goes on")
        assert_nobody_twice(vendor)


# -- Redis as the broker


class Redis:
    """A redis-server of a test's own, which can be stopped and started."""

    def __init__(self, folder: Path, port: int) -> None:
        self.command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        self.command += ["--appendonly", "no", "--dir", str(folder)]
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        until(self.answers, what="redis answers")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def answers(self) -> bool:
        with socket.socket() as asked:
            return asked.connect_ex(("127.0.0.1", self.port)) == 0

    def ticks(self, queue: str) -> int:
        """Count what waits in a queue's list, as django-q2 names it."""
        import redis

        with redis.Redis(port=self.port) as client:
            return int(client.llen(f"django_q:{queue}:q"))


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    if not shutil.which("redis-server"):
        pytest.skip("REDIS AS BROKER IS NOT TESTED: no redis-server here (apt install redis-server)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("BROKER_URL", f"redis://127.0.0.1:{port}/0")
    server = Redis(tmp_path, port)
    server.start()
    yield server
    server.stop()


ASK = """
import django
django.setup()
from engine.clock.schedules import enqueue
for _ in range({}):
    enqueue("events")
"""


def ask(times: int = 1) -> None:
    """Ask for a run of `events` in a process of its own, whose broker is Redis."""
    settings = {"DJANGO_SETTINGS_MODULE": "config.settings"}
    subprocess.run(
        [sys.executable, "-c", ASK.format(times)], env={**os.environ, **settings}, cwd=PROJECT, check=True
    )


def all_applied() -> bool:
    return not Receipt.objects.filter(applied_at=None).exists()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_with_redis_a_hundred_asks_are_one_tick(redis: Redis) -> None:
    ask(100)
    assert redis.ticks("events") == 1


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_broker_that_is_lost_fails_nobody_and_work_resumes_when_it_is_back(redis: Redis) -> None:
    with ExitStack() as stack:
        process = stack.enter_context(cluster("events"))
        store("whatsapp", WEBHOOK)
        ask()
        until(all_applied, seconds=30, what="applied by the cluster")

        redis.stop()
        store("whatsapp", WEBHOOK)
        ask()  # it ends well all the same
        assert not TickRequest.objects.exists(), "what did not reach the broker is not taken for waiting"
        redis.start()
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            stack.enter_context(cluster("events"))  # as the supervisor does
        ask()
        until(lambda: not TickRequest.objects.exists(), seconds=30, what="a tick begins")
        until(all_applied, seconds=30, what="applied once the broker is back")
