"""How much is due in each queue, for health, metrics and `status`."""

from __future__ import annotations

from typing import Final

from engine.processor.registry import all_queues
from engine.watch.depth import Depth, depth_of

CAP: Final = 10_000  # counting further would say nothing more and cost ever more


def depths() -> list[Depth]:
    return [depth(queue) for queue in all_queues()]


def depth(queue: str) -> Depth:
    """Count what is due in one queue, up to CAP."""
    return depth_of(queue, most=CAP)
