"""Three small processors, one of each kind that there is: they show that the runner is general.

* `Letters`: one call, never made twice (a message);
* `Sweeps`: a post read page by page, each page teaching who commented (a cursor kept in the row);
* `Exports`: begun and paid once, looked at until it is finished (a vendor's run).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import orjson
from django.db import models

from engine.models import QueueItem
from engine.processor import (
    Call,
    Continue,
    Counts,
    Done,
    Failed,
    Hold,
    InDoubt,
    LaneFacts,
    Lost,
    Outcome,
    Processor,
    Reply,
    Request,
    Response,
    Retry,
    Scope,
    Settled,
    Stale,
    Throttled,
    Unsent,
)
from engine.run.runner import Runner

SOON = timedelta(milliseconds=100)


class Letter(QueueItem):
    to = models.TextField(default="")
    vendor_id = models.CharField(max_length=100, default="")

    class Meta:
        app_label = "tests"


class Sweep(QueueItem):
    post = models.TextField(default="")
    cursor = models.TextField(default="")
    pages = models.IntegerField(default=0)

    class Meta:
        app_label = "tests"


class Sighting(models.Model):
    """The fact that a sweep brings: somebody commented on a post. Once, whoever saw it."""

    post = models.TextField()
    person = models.TextField()

    class Meta:
        app_label = "tests"
        constraints = [models.UniqueConstraint(fields=["post", "person"], name="sighting_once")]

    def __str__(self) -> str:
        return f"{self.person} on {self.post}"


class Export(QueueItem):
    what = models.TextField(default="")
    external_id = models.TextField(default="")
    result = models.TextField(default="")

    class Meta:
        app_label = "tests"


MODELS: tuple[type[models.Model], ...] = (Letter, Sweep, Export, Sighting)


def call(url: str, body: Any = None, **more: Any) -> Call:
    return Call("POST", url, {"content-type": "application/json"}, orjson.dumps(body), 5.0, **more)


def said(response: Response) -> Any:
    return orjson.loads(response.body) if isinstance(response, Reply) and response.status == 200 else None


def work(processor: Processor, *more: Processor, seconds: float = 20.0, until_empty: bool = True) -> Counts:
    """Run processors in this process, as `process QUEUE` does."""
    return Runner(processor.queue, [processor, *more]).run(seconds=seconds, until_empty=until_empty)


class Letters(Processor):
    name = "letters"
    queue = "letters"
    model = Letter
    columns = ("to",)
    results = {"vendor_id": "text"}
    stale = Stale.IN_DOUBT
    retry_delays = (timedelta(milliseconds=50), timedelta(milliseconds=100))

    def __init__(self, url: str) -> None:
        self.url = url
        self.learnt: list[Settled] = []
        self.empty: list[int] = []

    def plan(self, lane: LaneFacts, request: Request) -> Call:
        body = {"to": request.columns["to"], "attempt": str(request.attempt)}
        return call(f"{self.url}/{lane.name}/send", body)

    def interpret(self, lane: LaneFacts, request: Request, response: Response) -> Outcome:
        match response:
            case Reply(200):
                return Done({"vendor_id": said(response)["id"]})
            case Reply(429):
                return Throttled(timedelta(seconds=0.2), None, slow_down=True)
            case Reply(401):
                return Hold("token", Scope.TOKEN, "401", "dead token")
            case Reply(409):
                return Hold("template", Scope.FLOW, "409", "paused")
            case Reply(400):
                return Failed("400", "no such person")
            case Reply(503):
                return Retry("503")
            case Unsent(reason):
                return Retry("unsent", reason)
            case Lost(reason):
                return InDoubt(reason)
            case _:
                return InDoubt("unreadable")

    def learn(self, settled: Sequence[Settled]) -> int:
        self.learnt.extend(settled)
        return 0

    def drained(self, flows: Sequence[int]) -> None:
        self.empty.extend(flows)


class Sweeps(Processor):
    """Reads a post's pages to the end; who commented is learnt page by page."""

    name = "sweeps"
    queue = "sweeps"
    model = Sweep
    columns = ("post", "cursor", "pages")
    results = {"cursor": "text", "pages": "int"}
    retry_delays = (timedelta(milliseconds=50), timedelta(milliseconds=100))

    def __init__(self, url: str) -> None:
        self.url = url

    def plan(self, lane: LaneFacts, request: Request) -> Call:
        return call(f"{self.url}/{request.columns['post']}/comments?after={request.columns['cursor']}")

    def interpret(self, lane: LaneFacts, request: Request, response: Response) -> Outcome:
        page = said(response)
        if page is None:
            return Retry("unreadable")
        facts = [(request.columns["post"], person) for person in page["people"]]
        fields = {"pages": request.columns["pages"] + 1, "cursor": page["next"]}
        return Continue(fields, facts) if page["next"] else Done(fields, facts)

    def learn(self, settled: Sequence[Settled]) -> int:
        seen = [
            Sighting(post=post, person=person)
            for _, outcome in settled
            if isinstance(outcome, Done | Continue)
            for post, person in outcome.facts
        ]
        Sighting.objects.bulk_create(seen, ignore_conflicts=True)
        return len(seen)


class Exports(Processor):
    """Starts a run at the vendor, remembers its id, and asks for it until it is finished."""

    name = "exports"
    queue = "exports"
    model = Export
    columns = ("what", "external_id")
    results = {"external_id": "text", "result": "text"}
    stale = Stale.LOOK_AGAIN
    retry_delays = (SOON,) * 5

    def __init__(self, url: str) -> None:
        self.url = url

    def plan(self, lane: LaneFacts, request: Request) -> Call:
        if request.columns["external_id"]:
            return call(f"{self.url}/runs/{request.columns['external_id']}")
        if request.begun:  # an earlier call may have started it: look before paying twice
            return call(f"{self.url}/find", {"attempt": str(request.attempt)})
        body = {"what": request.columns["what"], "attempt": str(request.attempt)}
        return call(f"{self.url}/start", body, cost={"calls": 1, "usd_cents": 37})

    def interpret(self, lane: LaneFacts, request: Request, response: Response) -> Outcome:
        if isinstance(response, Reply) and response.status == 402:
            return Throttled(SOON, Scope.LANE, "402", "out of credit")
        answer = said(response)
        if answer is None:  # whatever became of it, the row keeps its attempt and is looked for
            return Retry("unreadable")
        if request.columns["external_id"]:
            return Continue(after=SOON) if answer["state"] == "running" else Done({"result": answer["state"]})
        if answer["id"]:
            return Continue({"external_id": answer["id"]}, after=SOON)
        return Continue(forget=True)  # the vendor knows of none
