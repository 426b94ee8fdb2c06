"""Every line that a run logs says which run, which lane and whose."""

from __future__ import annotations

from typing import Any

import structlog

from engine.models import Run
from tests.engine.conftest import MakeLane
from tests.engine.queues import Letter, Letters, work
from tests.engine.vendor import Vendor


def test_lines_of_callers_and_of_the_database_thread_name_the_run(
    make_lane: MakeLane, vendor: Vendor
) -> None:
    lane = make_lane(Letters)
    Letter.objects.create(tenant=lane.tenant, lane=lane, to="ann")
    seen: dict[str, dict[str, Any]] = {}

    class Curious(Letters):
        def interpret(self, lane: Any, request: Any, response: Any) -> Any:
            seen["caller"] = structlog.contextvars.get_contextvars()
            return super().interpret(lane, request, response)

        def learn(self, settled: Any) -> int:
            seen["database"] = structlog.contextvars.get_contextvars()
            return 0

    vendor.answer = lambda _: (400, {})
    work(Curious(vendor.url))

    run = Run.objects.get().pk
    assert (
        seen["caller"].items()
        >= {"queue": "letters", "run": run, "lane": "lane", "tenant": lane.tenant_id}.items()
    )
    assert seen["database"].items() >= {"queue": "letters", "run": run}.items()
    assert "run" not in structlog.contextvars.get_contextvars(), "nothing is left behind"
