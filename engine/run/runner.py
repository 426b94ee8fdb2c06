"""The runner: claim rows, plan calls, call within the allowance, interpret, settle in bulk, record the run.

One run drives many lanes in one event loop. Two halves meet in the lanes' hands:

* the **ledger's** (`engine.run.loop`) is one loop that looks, feeds, marks and settles for all lanes, a
  few statements each time round, whatever the number of lanes or rows;
* the **callers'** (`engine.run.callers`) take what is ready, wait for their slot, call, and put the outcome
  down. Sending never waits for settling.

A row is in one place only: planned (claimed, may go back), ready (committed as `sending`, not left), in a
caller's hands, or in the outcomes waiting to be settled.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from engine.processor.contract import Processor, Report
from engine.run.loop import Turn
from engine.run.runtime import DatabaseThread, runtime
from engine.store.ledger import Ledger
from providers.http import Http
from tenants.scope import all_tenants


class Runner:
    """A queue whose rows are settled by calls to a vendor."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor

    def run(
        self,
        *,
        seconds: float,
        until_empty: bool = False,
        idle_seconds: float = inf,
        successor: Callable[[], object] | None = None,
    ) -> Report:
        """Work until the deadline, until nothing is left, or until there was nothing for `idle_seconds`.

        `until_empty` waits for what falls due within a minute. `successor` is called in the database
        thread, shortly before the deadline and at the end, when work is left for another run. An
        interruption (^C) winds the run up: what is in flight is settled, the rest goes back.
        """
        turns: list[Turn] = []

        async def work(http: Http, database: DatabaseThread) -> Report:
            turns.append(Turn(self.processor, http, database, seconds, until_empty, idle_seconds, successor))
            return await turns[0].go()

        future = runtime.start(work)
        try:
            return future.result()
        except KeyboardInterrupt:
            for turn in turns:
                turn.deadline = 0.0
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def waiting(self) -> int:
        """Count the rows still to be done, in the calling thread."""
        with all_tenants(atomic=True):
            return Ledger(self.processor).waiting()
