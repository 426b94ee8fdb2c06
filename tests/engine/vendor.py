"""A vendor on loopback whose answers a test decides: it keeps every request, with its time of arrival."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]


@dataclass
class Request:
    path: str
    body: Any
    at: float


@dataclass
class Vendor:
    """Answers each request by `answer(request)`: (status, JSON), or None to cut the connection."""

    answer: Callable[[Request], Answer | None] = lambda _: (200, {})
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    hang: Callable[[], object] = lambda: None
    """Called before each answer, in the connection's own thread: it may take its time."""

    def worst_second(self) -> int:
        """The most requests that arrived in any sliding second."""
        times = sorted(request.at for request in self.requests)
        return max((sum(1 for t in times[i:] if t < at + 1.0) for i, at in enumerate(times)), default=0)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


@contextmanager
def serve() -> Iterator[Vendor]:
    vendor = Vendor()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            at = time.monotonic()
            length = int(self.headers.get("content-length") or 0)
            request = Request(self.path, json.loads(self.rfile.read(length) or b"null"), at)
            with lock:
                vendor.requests.append(request)
                answer = vendor.answer(request)
            vendor.hang()
            if answer is None:
                self.close_connection = True
                self.connection.close()
                return
            status, body = answer
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def handle(self) -> None:
            try:
                super().handle()
            except (ConnectionError, OSError, ValueError):
                self.close_connection = True  # the client has gone, or we cut it off ourselves

        def log_message(self, *args: Any) -> None:
            """Say nothing."""

    server = _Server(("127.0.0.1", 0), Handler)
    vendor.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield vendor
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
