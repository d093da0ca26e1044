"""A server that says exactly the bytes it is told to, for what no HTTP server would say."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

# Of a request's head, its body and its number, from 0: the bytes to send; ending with CLOSE, to close after them.
Say = Callable[[bytes, bytes, int], bytes]
CLOSE = b"\0close"


class Listener:
    """Serves each connection in a thread of its own. A context manager; nothing of it outlives the block."""

    def __init__(self) -> None:
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.port = self._sock.getsockname()[1]
        self.connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Any:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(5)
        self._sock.close()
        for conn in self.connections:
            shut(conn)
        for thread in self._threads[1:]:
            thread.join(5)
        for conn in self.connections:
            conn.close()

    def serve(self, conn: socket.socket) -> None:
        raise NotImplementedError

    def start(self, target: Callable[..., object], *arguments: object) -> None:
        """Runs this in a further thread."""
        self._threads.append(threading.Thread(target=target, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                conn, _ = self._sock.accept()
                self.connections.append(conn)
                self.start(self._serve, conn)

    def _serve(self, conn: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self.serve(conn)
        shut(conn)


def shut(sock: socket.socket) -> None:
    """Wakes whoever reads from it, also over TLS."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class RawServer(Listener):
    def __init__(self, say: Say) -> None:
        super().__init__()
        self._say = say
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.requests: list[tuple[bytes, bytes]] = []

    def serve(self, conn: socket.socket) -> None:
        while self._answer(conn):
            pass

    def _answer(self, conn: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            data += conn.recv(65536) or _gone()
        head, _, body = data.partition(b"\r\n\r\n")
        lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
        length = next((int(value) for name, _, value in lines if name == b"content-length"), 0)
        while len(body) < length:
            body += conn.recv(65536) or _gone()
        self.requests.append((head, body))
        said = self._say(head, body, len(self.requests) - 1)
        conn.sendall(said.removesuffix(CLOSE))
        return not said.endswith(CLOSE)


def _gone() -> bytes:
    raise ConnectionResetError


def answer(body: bytes = b"[]", status: bytes = b"200 OK", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
