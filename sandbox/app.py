"""The sandbox as one application: the vendors' paths, and its own under /_sandbox/."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from sandbox.config import SandboxConfig
from sandbox.http import Answer, Request
from sandbox.page import page
from sandbox.whatsapp import WhatsApp

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Sandbox:
    """What every face of the sandbox shares: its state, and an answer to each request."""

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self.first_config = config or SandboxConfig()
        self.whatsapp = WhatsApp(self.first_config)
        self.began = time.monotonic()

    @property
    def config(self) -> SandboxConfig:
        return self.whatsapp.config

    def handle(self, request: Request) -> Answer:
        if request.path.startswith("/v"):
            return self.whatsapp.handle(request)
        if request.path.startswith("/_sandbox/"):
            return self._control(request)
        return _problem(404, "no such path")

    async def close(self) -> None:
        await self.whatsapp.poster.close()

    def stats(self) -> dict[str, Any]:
        """Return what was counted since the start or the last reset."""
        numbers = {number: seen.as_json() for number, seen in sorted(self.whatsapp.numbers.items())}
        summed = ("arrivals", "accepted", "recipients", "recipients_repeated", "attempts_repeated")
        total: dict[str, Any] = {name: sum(seen[name] for seen in numbers.values()) for name in summed}
        total["worst_second"] = max((seen["worst_second"] for seen in numbers.values()), default=0)
        for name in ("errors", "faults"):
            total[name] = {}
            for seen in numbers.values():
                for code, count in seen[name].items():
                    total[name][code] = total[name].get(code, 0) + count
        return {
            "numbers": numbers,
            "total": total,
            "webhooks": self.whatsapp.poster.as_json(),
            "seconds": round(time.monotonic() - self.whatsapp.started, 1),
        }

    def _control(self, request: Request) -> Answer:
        what = (request.method, request.path.removeprefix("/_sandbox/"))
        if what == ("GET", ""):
            return Answer(body=page(self.stats(), self.config), kind="text/html; charset=utf-8")
        if what == ("GET", "health"):
            return Answer(body=b'{"ok":true}')
        if what == ("GET", "stats"):
            return Answer(body=orjson.dumps(self.stats()))
        if what == ("GET", "config"):
            return Answer(body=orjson.dumps(self.config.as_json()))
        if what == ("GET", "accepted"):
            return Answer(body=orjson.dumps(self._accepted(request.params().get("number", ""))))
        if what == ("POST", "reset"):
            self.whatsapp.reset()
            if request.params().get("config"):
                self.whatsapp.configure(self.first_config)
            return Answer(body=b'{"ok":true}')
        if what in (("POST", "config"), ("POST", "webhook")):
            try:
                data = orjson.loads(request.body)
                return self._configure(data) if what[1] == "config" else self._post(data)
            except (ValueError, TypeError, AttributeError) as error:
                return _problem(400, str(error))
        return _problem(404, "no such path")

    def _accepted(self, number: str) -> list[dict[str, Any]]:
        chosen = [self.whatsapp.numbers.get(number)] if number else list(self.whatsapp.numbers.values())
        return [message.as_json() for seen in chosen if seen for message in seen.accepted]

    def _configure(self, data: dict[str, Any]) -> Answer:
        self.whatsapp.configure(self.config.merge(data))
        if "hang_all" in data:
            self.whatsapp.hang(self.config.hang_all)
        return Answer(body=orjson.dumps(self.config.as_json()))

    def _post(self, data: dict[str, Any]) -> Answer:
        """Post `{"field": …, "value": …}` to the callback as a webhook of its own."""
        if not self.config.webhook_url:
            raise ValueError("webhook_url is not set")
        if not isinstance(data.get("field"), str) or "value" not in data:
            raise ValueError("a webhook has a field and a value")
        self.whatsapp.poster.post({"field": data["field"], "value": data["value"]})
        return Answer(202, b'{"ok":true}')


def create(config: SandboxConfig | None = None) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Return the sandbox as an ASGI application, for a server other than its own.

    ASGI cannot reset a connection: there a reset is an answer that breaks off.
    """
    sandbox = Sandbox(config)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(sandbox, receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"the sandbox does not speak {scope['type']}")
        body, more = b"", True
        while more:
            event = await receive()
            body += event.get("body", b"")
            more = event.get("more_body", False)
        arrived = time.monotonic()
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        query = scope.get("query_string", b"").decode("latin-1")
        answer = sandbox.handle(Request(scope["method"], scope["path"], query, headers, body, arrived))
        if answer.after is not None:
            await asyncio.wait([answer.after], timeout=5.0)
        if (wait := answer.delay - (time.monotonic() - arrived)) > 0:
            await asyncio.sleep(wait)
        length = len(answer.body) + (100 if answer.reset else 0)
        out = {**answer.headers, "content-type": answer.kind, "content-length": str(length)}
        lines = [(name.encode(), value.encode("latin-1")) for name, value in out.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": lines})
        await send({"type": "http.response.body", "body": answer.body, "more_body": answer.reset})
        if answer.reset:
            raise ConnectionResetError("as the sandbox was told")

    return app


async def _lifespan(sandbox: Sandbox, receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        if event["type"] == "lifespan.shutdown":
            await sandbox.close()
        await send({"type": event["type"] + ".complete"})
        if event["type"] == "lifespan.shutdown":
            return


def _problem(status: int, detail: str) -> Answer:
    return Answer(status, orjson.dumps({"detail": detail}))
