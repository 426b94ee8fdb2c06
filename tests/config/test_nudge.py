"""Asking for a run of the events queue: at once, and not too often."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from engine.inbox.group_commit import Nudge


def test_a_nudge_calls_at_once_then_at_most_once_a_turn_and_never_forgets() -> None:
    called: list[float] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        nudge = Nudge(lambda: called.append(loop.time()), every=0.2)
        nudge.start()
        until = loop.time() + 0.5
        while loop.time() < until:
            nudge.ask()
            await asyncio.sleep(0.01)
        nudge.ask()
        await nudge.stop()

    asyncio.run(run())
    assert 3 <= len(called) <= 5
    assert min(late - early for early, late in pairwise(called[:-1])) >= 0.2


def test_a_nudge_that_fails_is_logged_and_called_again(caplog: pytest.LogCaptureFixture) -> None:
    called: list[int] = []

    def call() -> None:
        called.append(1)
        if len(called) == 1:
            raise RuntimeError("no broker")

    async def run() -> None:
        nudge = Nudge(call, every=0.01)
        nudge.start()
        while len(called) < 2:
            nudge.ask()
            await asyncio.sleep(0.01)
        await nudge.stop()

    asyncio.run(asyncio.wait_for(run(), 5))
    assert "intake cannot ask for a tick" in caplog.text
