"""The wish to stop, as it reaches a runner deep inside a cluster's worker.

django-q2 waits for a running task before it stops, and a run lasts most of a minute. So `manage.py run`
hands its children the reading end of a pipe: it closes the other end when it stops, and the kernel does
so when it is killed. A run that sees this settles what it has in hand, gives the rest back and ends.
"""

from __future__ import annotations

import os
import select
from typing import Final

STOP_FD: Final = "TURNOUT_STOP_FD"


def stop_asked() -> bool:
    """Has the supervisor of this process asked it to stop, or died? Never true without a supervisor."""
    given = os.environ.get(STOP_FD, "")
    if not given.isdecimal():
        return False
    try:
        readable, _, _ = select.select([int(given)], [], [], 0)
    except (OSError, ValueError):
        return False  # not handed down to this process
    return bool(readable)
