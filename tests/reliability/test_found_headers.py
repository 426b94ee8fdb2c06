"""A vendor's answer with a header that is no ASCII is an answer like any other."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks.harness import fill, running
from engine.models import Run
from tenants.scope import all_tenants
from tests.reliability.ledger import counts

MESSAGES = 20


class Vendor:
    """Takes every message, and signs its answers with a header in Latin-1."""

    url = ""
    taken = 0


@contextmanager
def odd_headers() -> Iterator[Vendor]:
    vendor = Vendor()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            vendor.taken += 1
            body = json.dumps({"messages": [{"id": f"wamid.{vendor.taken}"}]}).encode()
            self.send_response(200)
            self.send_header("x-proxy", "caf\xe9")  # written as Latin-1
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    vendor.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield vendor
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.slow
def test_a_header_that_is_no_ascii_loses_no_answer_and_ends_no_caller() -> None:
    """Once the client's own ValueError ended the caller: its row stayed `sending`, its lane was never free
    again, and the run did not end, not even at its deadline."""
    with odd_headers() as vendor:
        fill(messages=MESSAGES, rate=100)
        command = [sys.executable, "manage.py", "process", "messaging", "--json", "--until-empty"]
        with running(command, vendor) as process:
            report = process.ended(seconds=30)
    assert vendor.taken == MESSAGES
    assert counts() == {"accepted": MESSAGES}
    assert report["remaining"] == 0
    with all_tenants():
        assert list(Run.objects.values_list("state", flat=True)) == ["done"]
