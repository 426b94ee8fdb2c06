"""Ends the children of a supervisor that was killed: `python -m config.guardian`, started by the supervisor.

It reads "+<group>" and "-<group>" lines from its standard input. When that closes, because the supervisor
ended, however it ended, what is still on the list is stopped: the leader first, so that it may finish in
order, then the whole group. In a session of its own, so that ^C does not reach it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable

from config.localpg import DatabaseUnavailable, ensure_database

GRACE_SECONDS = 5.0


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Holding the embedded database makes this process the last one out, which stops it.
    with contextlib.suppress(DatabaseUnavailable):
        ensure_database()
    end_groups(read_groups(sys.stdin), grace=GRACE_SECONDS)
    return 0


def read_groups(lines: Iterable[str]) -> set[int]:
    """Follow the list until it closes; return what is left on it."""
    groups: set[int] = set()
    for line in lines:
        sign, group = line[0], int(line[1:])
        if sign == "+":
            groups.add(group)
        else:
            groups.discard(group)
    return groups


def end_groups(groups: set[int], *, grace: float) -> None:
    """Stop each group: SIGTERM to its leader alone, and after `grace` seconds SIGKILL to all of it.

    SIGTERM to a whole group would hang django-q2: its processes wait for each other.
    """
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.kill(group, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while any(alive(group) for group in groups) and time.monotonic() < deadline:
        time.sleep(0.05)
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def alive(group: int) -> bool:
    """Is any process of this group left?"""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    sys.exit(main())
