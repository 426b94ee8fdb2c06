"""Every line that a run logs says which run, which lane and whose."""

from __future__ import annotations

from typing import Any

import structlog

from engine.models import Run
from engine.run.runner import Runner
from tests.engine.conftest import MakeLane
from tests.engine.queues import Letter, Letters
from tests.engine.vendor import Vendor


def test_lines_of_callers_and_of_the_database_thread_name_the_run(
    make_lane: MakeLane, vendor: Vendor
) -> None:
    lane = make_lane(Letters)
    Letter.objects.create(tenant=lane.tenant, lane=lane, to="ann")
    seen: dict[str, dict[str, Any]] = {}

    class Curious(Letters):
        def interpret(self, planned: Any, response: Any) -> Any:
            seen["caller"] = structlog.contextvars.get_contextvars()
            return super().interpret(planned, response)

        def attend(self, settled: Any) -> None:
            seen["database"] = structlog.contextvars.get_contextvars()

    vendor.answer = lambda _: (400, {})
    Runner(Curious(vendor.url)).run(seconds=20, until_empty=True)

    run = Run.objects.get().pk
    assert (
        seen["caller"].items()
        >= {"queue": "letters", "run": run, "lane": "lane", "tenant": lane.tenant_id}.items()
    )
    assert seen["database"].items() >= {"queue": "letters", "run": run}.items()
    assert "run" not in structlog.contextvars.get_contextvars(), "nothing is left behind"
