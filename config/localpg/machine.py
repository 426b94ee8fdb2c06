"""Accounts, permissions, file locks and signals: what the embedded server asks of the machine."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


def flock(path: Path, kind: int) -> int:
    """Lock a file, waiting for it; the lock lasts until the descriptor is closed or its holder ends."""
    # Opened for reading: a file made by root then serves everybody.
    fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(fd, kind)
    return fd


def account(data: Path) -> pwd.struct_passwd | None:
    """Return whom the server runs as when we are root, whom it refuses: its files' owner or a plain user."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(OSError, KeyError):  # not there yet, or an owner without a name
        owner = pwd.getpwuid(data.stat().st_uid)
        if owner.pw_uid != 0:
            return owner
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def reaches(uid: int, path: Path) -> bool:
    """Can this user go through path and every directory above it?"""
    return all(p.stat().st_uid == uid or p.stat().st_mode & 0o001 for p in (path, *path.parents))


def digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:10]


def quoted(value: str) -> str:
    """Quote a value for postgresql.conf."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def send(processes: list[psutil.Process], number: signal.Signals) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
