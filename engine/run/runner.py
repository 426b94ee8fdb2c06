"""Run a queue: claim, plan, call within the allowance, interpret, settle in bulk, record the run.

Each processor of the queue has a loop of its own (`engine.run.loop`), and all of them share the process's one
event loop, HTTP client and database thread. Two halves of a run meet in the lanes' hands:

* the **store's** (`engine.run.loop`, `engine.run.feeding`) looks, feeds, marks and settles for all lanes, a
  few statements each time round, whatever the number of lanes or rows;
* the **callers'** (`engine.run.callers`) take what is ready, wait for their slot, call, and put the outcome
  down. Sending never waits for settling.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from math import inf

from engine.processor.contract import Processor
from engine.processor.counts import Counts
from engine.run.loop import Loop
from engine.run.runtime import DatabaseThread, runtime
from engine.store.store import Store
from providers.http import Http
from tenants.scope import all_tenants

CUT_OFF_SECONDS = 5.0
"""How long a run that is cut off may take to settle what is in flight."""


class Runner:
    """Works a queue whose requests are settled by calls to vendors."""

    def __init__(self, queue: str, processors: Sequence[Processor]) -> None:
        self.queue = queue
        self.processors = processors

    def run(
        self,
        *,
        seconds: float,
        until_empty: bool = False,
        idle_seconds: float = inf,
        successor: Callable[[], object] | None = None,
    ) -> Counts:
        """Work until the deadline, until nothing is left, or until there was nothing for `idle_seconds`.

        `until_empty` waits for what falls due within a minute. `successor` is called in the database
        thread, shortly before the deadline and at the end, when work is left for another run. ^C winds the
        run up: what is in flight is settled, the rest goes back. Anything else that ends it from outside,
        django-q2's time-out above all, does the same within seconds, and the run's row says so.
        """
        loops: list[Loop] = []
        ended = threading.Event()

        async def work(http: Http, database: DatabaseThread) -> Counts:
            loops.extend(
                Loop(processor, http, database, seconds, until_empty, idle_seconds, successor)
                for processor in self.processors
            )
            try:
                return _sum(self.queue, await _all(loops))
            finally:
                ended.set()

        future = runtime.start(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            for loop in loops:
                loop.deadline = 0.0
            return future.result()
        except BaseException as error:
            if not future.done():
                for loop in loops:
                    loop.cut(f"cut off: {type(error).__name__}: {error}")
                if not ended.wait(CUT_OFF_SECONDS):
                    future.cancel()
                    ended.wait(CUT_OFF_SECONDS)
            raise

    def waiting(self) -> int:
        """Count the rows still to be done, in the calling thread."""
        with all_tenants(atomic=True):
            return sum(Store(processor).waiting() for processor in self.processors)


async def _all(loops: Sequence[Loop]) -> list[Counts]:
    """Run side by side; one that fails lets the others end in order, and is raised then."""
    results = await asyncio.gather(*(loop.go() for loop in loops), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, Counts)]


def _sum(queue: str, counts: Sequence[Counts]) -> Counts:
    total = Counts(queue)
    for one in counts:
        total.add(one)
        total.remaining += one.remaining
        total.lanes += one.lanes
        total.seconds = max(total.seconds, one.seconds)
        total.batch_size = max(total.batch_size, one.batch_size)
    return total
