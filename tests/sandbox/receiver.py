"""A callback URL on loopback that keeps what was posted to it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from providers import whatsapp
from providers.base import ProviderError
from providers.whatsapp import Event, StatusUpdate

APP_SECRET = "app-secret"


@dataclass
class Receiver:
    """`events` holds what was acknowledged, `refused` how often it said no; `answers` are given first."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    refused: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def statuses(self) -> list[StatusUpdate]:
        return [event for event in self.events if isinstance(event, StatusUpdate)]

    def wait(self, until: Callable[[Receiver], object], seconds: float = 15.0) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: until(self), seconds), f"{len(self.events)} events came"

    def take(self, body: bytes, signature: str | None) -> int:
        whatsapp.verify(body, signature, [APP_SECRET])
        with self.changed:
            status = self.answers.pop(0) if self.answers else 200
            if 200 <= status < 300:
                events = whatsapp.parse_webhook(body)
                self.events += events
                self.sizes.append(len(events))
                self.times.append(time.monotonic())
            else:
                self.refused += 1
            self.changed.notify_all()
        return status


@contextlib.contextmanager
def receiving(*answers: int) -> Iterator[Receiver]:
    """Receive on a free port until the block ends."""
    receiver = Receiver(answers=list(answers))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            try:
                status = receiver.take(body, self.headers.get("x-hub-signature-256"))
            except ProviderError:
                status = 403
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/webhooks/whatsapp/"
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield receiver
        finally:
            server.shutdown()
