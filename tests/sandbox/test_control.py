"""The sandbox is set up and asked while it runs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from providers.base import Done, Throttled, Unsent
from providers.whatsapp import read_send
from sandbox import SandboxConfig, running
from sandbox.app import create
from tests.sandbox.conftest import NUMBER

ROOT = Path(__file__).parents[2]
QUICK = SandboxConfig(latency_ms=(0, 0))


def test_settings_change_while_it_runs(send):
    with running(QUICK) as vendor, httpx.Client(base_url=vendor.url, trust_env=False) as client:
        assert isinstance(read_send(send(vendor.url)), Done)
        answer = client.post("/_sandbox/config", json={"rate": 1, "errors": {"131026": 0.25}})
        assert answer.json()["rate"] == 1
        assert isinstance(read_send(send(vendor.url)), Throttled)
        assert client.get("/_sandbox/config").json()["errors"] == {"131026": 0.25}
        client.post("/_sandbox/reset?config=1")
        assert client.get("/_sandbox/config").json()["rate"] == 80


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, "no such setting: colour"),
        ({"rate": -1}, "rate: -1 does not fit"),
        ({"rate": "fast"}, "rate: 'fast' does not fit"),
        ({"rate": True}, "rate: True does not fit"),
        ({"latency_ms": [1]}, "does not fit"),
        ({"errors": {"131026": "often"}}, "does not fit"),
        ({"errors": [1]}, "does not fit"),
        ({"webhook_shuffle": 1}, "does not fit"),
        ({"webhook_url": 1}, "does not fit"),
        ({"webhook_batch": 0}, "between 1 and 1,000"),
        ({"dead_tokens": "abc"}, "does not fit"),
        ({"numbers": {"222": 1}}, "does not fit"),
        ({"numbers": {"222": {"rate": 5}}}, "rate is not a number's own"),
        ({"numbers": {"222": {"reset_before": "often"}}}, "does not fit"),
        ({"numbers": {"222": {"fail_graph": 0.6, "unreadable": 0.6}}}, "more than 1"),
        ({"fail_graph": 0.6, "errors": {"131026": 0.6}}, "more than 1"),
    ],
)
def test_a_setting_that_does_not_fit_changes_nothing(changes, words):
    with running(QUICK) as vendor, httpx.Client(base_url=vendor.url, trust_env=False) as client:
        before = client.get("/_sandbox/config").json()
        answer = client.post("/_sandbox/config", json={"waba_id": "7", **changes})
        assert answer.status_code == 400
        assert words in answer.json()["detail"]
        assert client.get("/_sandbox/config").json() == before


def test_a_reset_forgets_the_counts_and_keeps_the_settings(send, stats):
    with running(QUICK.merge({"rate": 7})) as vendor:
        send(vendor.url)
        assert stats(vendor.url)["total"]["accepted"] == 1
        httpx.post(f"{vendor.url}/_sandbox/reset", trust_env=False)
        assert stats(vendor.url)["numbers"] == {}
        assert vendor.sandbox.config.rate == 7


def test_secrets_and_tokens_are_not_shown():
    config = QUICK.merge({"webhook_secret": "hush-hush", "dead_tokens": ["dead-token"]})
    with running(config) as vendor, httpx.Client(base_url=vendor.url, trust_env=False) as client:
        for path in ("config", "stats", ""):
            shown = client.get(f"/_sandbox/{path}").text
            assert "hush-hush" not in shown
            assert "dead-token" not in shown


def test_the_page_shows_what_was_counted_and_looks_again(send):
    with running(QUICK.merge({"rate": 1})) as vendor:
        send(vendor.url)
        send(vendor.url)
        page = httpx.get(f"{vendor.url}/_sandbox/", trust_env=False)
    assert page.headers["content-type"].startswith("text/html")
    assert NUMBER in page.text
    assert "130429: 1" in page.text
    assert 'http-equiv="refresh"' in page.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/_sandbox/nothing", 404),
        ("DELETE", "/_sandbox/stats", 404),
        ("POST", "/_sandbox/config", 400),
        ("POST", "/_sandbox/webhook", 400),
        ("GET", "/v25.0", 400),
        ("GET", "/vX/1/messages", 400),
        ("GET", f"/v25.0/{NUMBER}/messages", 400),
        ("POST", "/v25.0/abc/messages", 400),
        ("GET", "/v25.0/abc", 400),
    ],
)
def test_other_paths_are_refused(method, path, status):
    with running(QUICK) as vendor:
        headers = {"authorization": "Bearer t0k"}
        answer = httpx.request(method, vendor.url + path, headers=headers, content=b"[", trust_env=False)
    assert answer.status_code == status
    assert answer.json()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n", b"411"),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 70_000, b"431"),
    ],
)
def test_what_is_not_plain_http_is_refused_and_closed(request_, status):
    with running(QUICK) as vendor:
        port = int(vendor.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            peer.sendall(request_)
            answer = b""
            while piece := peer.recv(4096):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 " + status)


def test_requests_in_pieces_and_behind_each_other_are_answered_in_order():
    one = b"GET /_sandbox/health HTTP/1.1\r\nhost: x\r\n\r\n"
    last = b"GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with running(QUICK) as vendor:
        port = int(vendor.url.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            for start in range(0, len(one), 7):
                peer.sendall(one[start : start + 7])
            peer.sendall(one + last)
            answer = b""
            while piece := peer.recv(4096):
                answer += piece
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200", b"404"]


def test_it_is_an_asgi_application_too():
    async def talk() -> tuple[httpx.Response, httpx.Response]:
        transport = httpx.ASGITransport(create(QUICK))
        async with httpx.AsyncClient(transport=transport, base_url="http://sandbox") as client:
            body = {
                "messaging_product": "whatsapp",
                "to": "4915112345678",
                "type": "template",
                "template": {"name": "offer", "language": {"code": "en"}},
            }
            headers = {"authorization": "Bearer t0k"}
            sent = await client.post(f"/v25.0/{NUMBER}/messages", json=body, headers=headers)
            return sent, await client.get("/_sandbox/stats")

    sent, counted = asyncio.run(talk())
    assert sent.json()["messages"][0]["message_status"] == "accepted"
    assert counted.json()["total"]["accepted"] == 1


def start(*options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sandbox", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_it_runs_as_a_process_and_ends_when_asked(send):
    process = start("--port", "0", "--latency", "0,0", "--rate", "2", "--set", 'errors={"131026": 0}')
    try:
        assert process.stdout
        url = process.stdout.readline().split()[1].removesuffix("/_sandbox/")
        assert isinstance(read_send(send(url)), Done)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert isinstance(send(url), Unsent)


def test_a_taken_port_is_one_clear_line():
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        process = start("--port", str(port))
        out, errors = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, "")
    assert errors == f"sandbox: cannot listen on 127.0.0.1:{port}: Address already in use\n"


@pytest.mark.parametrize(
    "option", ["--latency=slow", "--set=colour=1", "--set=rate=x", "--rate=-1", "--port=x"]
)
def test_wrong_options_are_wrong_usage(option):
    process = start(option)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "Traceback" not in errors
