"""A loopback server that misbehaves on purpose: raw sockets, so that each fault is exactly what it says."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-app-usage: {}\r\n\r\nok"


@dataclass
class Server:
    """What the client meets: `requests` holds every request read, in order of arrival."""

    port: int = 0
    connections: int = 0
    requests: list[bytes] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/v25.0/1/messages?key=s3cret"

    def read(self, peer: socket.socket) -> bytes | None:
        """Read one request, head and body. None when the client went away first."""
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := peer.recv(65536)):
                return None
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        while len(rest) < length:
            rest += peer.recv(65536)
        with self.changed:
            self.requests.append(head + b"\r\n\r\n" + rest)
            self.changed.notify_all()
        return self.requests[-1]


def reset(peer: socket.socket) -> None:
    """Close with RST instead of FIN."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


@contextlib.contextmanager
def serving(behave: Callable[[Server, socket.socket], None]) -> Iterator[Server]:
    """Serve on a free port, one thread a connection, until the block ends."""
    server = Server()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        server.port = listener.getsockname()[1]

        def talk(peer: socket.socket) -> None:
            with peer, contextlib.suppress(OSError):
                behave(server, peer)

        def accept() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                server.connections += 1
                threading.Thread(target=talk, args=(peer,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server
        finally:
            listener.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def refused_port() -> Iterator[int]:
    """A port that is bound, so nobody else takes it, and not listened on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port whose queue of waiting connections is full: a new one gets no answer at all."""
    with socket.socket() as listener, contextlib.ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            peer = waiting.enter_context(socket.socket())
            peer.setblocking(False)
            peer.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def close_at_once(server: Server, peer: socket.socket) -> None:
    peer.close()


def reset_at_once(server: Server, peer: socket.socket) -> None:
    reset(peer)


def read_then_close(server: Server, peer: socket.socket) -> None:
    server.read(peer)


def read_then_reset(server: Server, peer: socket.socket) -> None:
    server.read(peer)
    reset(peer)


def read_then_hang(server: Server, peer: socket.socket) -> None:
    server.read(peer)
    peer.recv(1)  # until the client gives up


def half_a_body(server: Server, peer: socket.socket) -> None:
    server.read(peer)
    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")


def body_that_stops(server: Server, peer: socket.socket) -> None:
    half_a_body(server, peer)
    peer.recv(1)


def body_that_trickles(server: Server, peer: socket.socket) -> None:
    half_a_body(server, peer)
    while True:
        peer.sendall(b" ")
        time.sleep(0.05)


def not_http(server: Server, peer: socket.socket) -> None:
    server.read(peer)
    peer.sendall(b"\x00\x01 what?\r\n\r\n")


def broken_gzip(server: Server, peer: socket.socket) -> None:
    server.read(peer)
    peer.sendall(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc")


def plain_where_tls_is_expected(server: Server, peer: socket.socket) -> None:
    peer.recv(65536)
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def answering(answer: bytes) -> Callable[[Server, socket.socket], None]:
    """Answer every request on the connection with these bytes."""

    def behave(server: Server, peer: socket.socket) -> None:
        while server.read(peer):
            peer.sendall(answer)

    return behave


MB = b" " * 1024 * 1024
ENDLESS = 300  # MB


def _send_much(peer: socket.socket, head: bytes, pieces: Iterator[bytes]) -> None:
    peer.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
    for piece in pieces:
        peer.sendall(piece)


def long_body(server: Server, peer: socket.socket) -> None:
    """Announce 300 MB, and send them."""
    if server.read(peer):
        _send_much(peer, b"content-length: %d" % (ENDLESS * len(MB)), repeat(MB, ENDLESS))


def long_body_in_pieces(server: Server, peer: socket.socket) -> None:
    """Send 300 MB without having said how much it will be."""
    if server.read(peer):
        piece = b"%x\r\n" % len(MB) + MB + b"\r\n"
        _send_much(peer, b"transfer-encoding: chunked", repeat(piece, ENDLESS))


def long_body_packed(server: Server, peer: socket.socket) -> None:
    """Send 300 MB as 300 kB of gzip."""
    if server.read(peer):
        pack = zlib.compressobj(9, zlib.DEFLATED, 31)
        packed = b"".join(pack.compress(MB) for _ in range(ENDLESS)) + pack.flush()
        _send_much(peer, b"content-encoding: gzip\r\ncontent-length: %d" % len(packed), iter([packed]))
