"""Where there is no embedded database to be had, one clear line says why and what to do."""

import contextlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

import manage
from config.localpg import DatabaseUnavailable, LocalPg, ensure_database
from config.localpg import __main__ as command_line
from config.localpg import server as localpg
from tests.config.embedded import sql


def one_line(error: "pytest.ExceptionInfo[DatabaseUnavailable]") -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


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
    monkeypatch.setattr(localpg, "find_spec", lambda name: None)
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
@pytest.mark.parametrize("words", [["help"], ["version"], ["diffsettings"]])
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
    assert command_line.main(["start"]) == 1
    assert capsys.readouterr().err == "error: the disk is full\n"
