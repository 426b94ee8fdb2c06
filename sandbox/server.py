"""Run the sandbox: in this process until it is stopped, or in a thread of a test."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakSet

import uvloop

from sandbox.app import Sandbox
from sandbox.config import SandboxConfig
from sandbox.http import Connection, note_arrivals


def serve(
    config: SandboxConfig | None = None,
    port: int = 9009,
    *,
    host: str = "127.0.0.1",
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM. `ready` is told the address; port 0 takes a free one.

    One process, one loop: counting is exact. Raises OSError when the port is taken. Switches off the
    garbage collector's pauses, which would bunch arrivals and blame the sender for it.
    """
    listener = _listen(host, port)
    gc.disable()

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        await _serve(Sandbox(config), listener, stop, ready)

    uvloop.run(run())


@dataclass(slots=True, frozen=True)
class Running:
    """A sandbox in a thread of this process: its address, and its state to look at."""

    url: str
    sandbox: Sandbox


@contextlib.contextmanager
def running(config: SandboxConfig | None = None, port: int = 0) -> Iterator[Running]:
    """Serve from a thread until the block ends. For tests; for figures use a process of its own."""
    listener = _listen("127.0.0.1", port)
    sandbox = Sandbox(config)
    up = threading.Event()
    stopping: list[Callable[[], object]] = []

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        stopping.append(lambda: loop.call_soon_threadsafe(stop.set))
        await _serve(sandbox, listener, stop, lambda url: up.set())

    thread = threading.Thread(target=uvloop.run, args=(run(),), name="sandbox", daemon=True)
    thread.start()
    try:
        if not up.wait(10):
            raise RuntimeError("the sandbox did not start")
        yield Running(_url(listener), sandbox)
    finally:
        for stop in stopping:
            stop()
        thread.join(10)


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), backlog=4096)
    note_arrivals(listener)
    listener.setblocking(False)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"


async def _serve(
    sandbox: Sandbox,
    listener: socket.socket,
    stop: asyncio.Event,
    ready: Callable[[str], None] | None,
) -> None:
    loop = asyncio.get_running_loop()
    connections: WeakSet[Connection] = WeakSet()

    def accept() -> None:
        for _ in range(64):
            try:
                peer, _address = listener.accept()
            except OSError:  # nobody else is waiting, or gave up meanwhile
                return
            connections.add(Connection(sandbox.handle, loop, peer))

    loop.add_reader(listener.fileno(), accept)
    if ready:
        ready(_url(listener))
    try:
        await stop.wait()
    finally:
        loop.remove_reader(listener.fileno())
        listener.close()
        for connection in list(connections):
            connection.end()
        await sandbox.close()
