"""Whether the supervisor wants this process to stop.

django-q2 waits for running tasks before it stops, and a run lasts most of a minute. So `manage.py run`
passes its children the reading end of a pipe, and closes the writing end when it stops; when it is killed,
the kernel does. A run that sees the pipe closed settles what is in flight, gives the rest back and ends.
"""

from __future__ import annotations

import os
import select
from typing import Final

STOP_FD: Final = "TURNOUT_STOP_FD"
"""The environment variable that names the file descriptor of the pipe."""


def stop_asked() -> bool:
    """Has this process's supervisor asked it to stop, or died? False where there is no supervisor."""
    given = os.environ.get(STOP_FD, "")
    if not given.isdecimal():
        return False
    try:
        readable, _, _ = select.select([int(given)], [], [], 0)
    except (OSError, ValueError):
        return False  # the descriptor was not passed to this process
    return bool(readable)
