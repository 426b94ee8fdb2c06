"""Three small queues, one of each kind that there is: they show that the runner is general.

* `Letters`: one row a call, never sent twice (a message);
* `Checks`: hundreds of rows a call, over several pages (a page of comments settles everybody on it);
* `Exports`: begun by one call, finished by later ones, found again after a crash (a vendor's run).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

import orjson
from django.db import models

from engine.models import QueueItem
from engine.processor.contract import Item, LaneFacts, Planned, Processor, Settled, Stale
from providers.base import (
    Call,
    Done,
    Failed,
    Hold,
    InDoubt,
    Lost,
    Pending,
    Reply,
    Response,
    Retry,
    Scope,
    Throttled,
    Unsent,
)


class Letter(QueueItem):
    to = models.TextField(default="")
    vendor_id = models.TextField(default="")

    class Meta:
        app_label = "tests"


class Check(QueueItem):
    post = models.TextField(default="")
    person = models.TextField(default="")
    proof = models.TextField(default="")

    class Meta:
        app_label = "tests"


class Export(QueueItem):
    what = models.TextField(default="")
    external_id = models.TextField(default="")
    result = models.TextField(default="")

    class Meta:
        app_label = "tests"


MODELS: tuple[type[QueueItem], ...] = (Letter, Check, Export)


def call(url: str, body: Any = None) -> Call:
    return Call("POST", url, {"content-type": "application/json"}, orjson.dumps(body), 5.0)


def said(response: Response) -> Any:
    return orjson.loads(response.body) if isinstance(response, Reply) and response.status == 200 else None


class Letters(Processor):
    queue = "letters"
    model = Letter
    columns = ("to",)
    results = {"vendor_id": "text"}
    stale = Stale.IN_DOUBT
    retry_delays = (timedelta(milliseconds=50), timedelta(milliseconds=100))

    def __init__(self, url: str) -> None:
        self.url = url
        self.attended: list[Settled] = []
        self.empty: list[int] = []

    def plan(self, lane: LaneFacts, items: Sequence[Item]) -> Sequence[Planned]:
        return [
            Planned(
                call(f"{self.url}/{lane.name}/send", {"to": i.columns["to"], "attempt": str(i.attempt)}), (i,)
            )
            for i in items
        ]

    def interpret(self, planned: Planned, response: Response) -> Iterable[Settled]:
        (item,) = planned.items
        match response:
            case Reply(200):
                yield item, Done({"vendor_id": said(response)["id"]})
            case Reply(429):
                yield item, Throttled(timedelta(seconds=0.2), slow_down=True)
            case Reply(401):
                yield item, Hold("token", Scope.TOKEN, "401", "dead token")
            case Reply(409):
                yield item, Hold("template", Scope.FLOW, "409", "paused")
            case Reply(400):
                yield item, Failed("400", "no such person")
            case Reply(503):
                yield item, Retry("503")
            case Unsent(reason):
                yield item, Retry("unsent", reason)
            case Lost(reason):
                yield item, InDoubt(reason)
            case _:
                yield item, InDoubt("unreadable")

    def attend(self, settled: Sequence[Settled]) -> None:
        self.attended.extend(settled)

    def drained(self, flows: Sequence[int]) -> None:
        self.empty.extend(flows)


class Checks(Processor):
    """Reads a post's pages until everybody asked about was seen or the pages end."""

    queue = "checks"
    model = Check
    columns = ("post", "person")
    results = {"proof": "text"}
    rows_per_call = 100

    def __init__(self, url: str) -> None:
        self.url = url

    def plan(self, lane: LaneFacts, items: Sequence[Item]) -> Sequence[Planned]:
        posts: dict[str, list[Item]] = defaultdict(list)
        for item in items:
            posts[item.columns["post"]].append(item)
        return [self.page(post, theirs, "") for post, theirs in posts.items()]

    def page(self, post: str, items: Sequence[Item], after: str) -> Planned:
        return Planned(call(f"{self.url}/{post}/comments?after={after}"), items, post)

    def interpret(self, planned: Planned, response: Response) -> Iterable[Settled | Planned]:
        page = said(response)
        if page is None:
            return [(item, Retry("unreadable")) for item in planned.items]
        found: list[Settled | Planned] = []
        missing = []
        for item in planned.items:
            if item.columns["person"] in page["people"]:
                found.append((item, Done({"proof": f"page {page['number']}"})))
            else:
                missing.append(item)
        if missing and page["next"]:
            found.append(self.page(planned.note, missing, page["next"]))
        else:
            found.extend((item, Failed("not found")) for item in missing)
        return found


class Exports(Processor):
    """Starts a run at the vendor, remembers its id, and asks for it until it is finished."""

    queue = "exports"
    model = Export
    columns = ("what", "external_id")
    results = {"external_id": "text", "result": "text"}
    stale = Stale.LOOK_AGAIN

    def __init__(self, url: str) -> None:
        self.url = url

    def plan(self, lane: LaneFacts, items: Sequence[Item]) -> Sequence[Planned]:
        return [self.ask(item) for item in items]

    def ask(self, item: Item) -> Planned:
        if item.columns["external_id"]:
            return Planned(call(f"{self.url}/runs/{item.columns['external_id']}"), (item,), "poll")
        if item.seen_before:  # an earlier call may have started it: look before paying twice
            return Planned(call(f"{self.url}/find", {"attempt": str(item.attempt)}), (item,), "find")
        return self.start(item)

    def start(self, item: Item) -> Planned:
        body = {"what": item.columns["what"], "attempt": str(item.attempt)}
        return Planned(call(f"{self.url}/start", body), (item,), "start")

    def interpret(self, planned: Planned, response: Response) -> Iterable[Settled | Planned]:
        (item,) = planned.items
        answer = said(response)
        soon = timedelta(milliseconds=100)
        if answer is None:  # whatever became of it, the row keeps its attempt and is looked for
            yield item, Pending(soon)
        elif planned.note == "find" and not answer["id"]:
            yield self.start(item)
        elif planned.note in ("find", "start"):
            yield item, Pending(soon, {"external_id": answer["id"]})
        elif answer["state"] == "running":
            yield item, Pending(soon)
        else:
            yield item, Done({"result": answer["state"]})
