"""A proxy that is spoken to over TLS, and passes TLS on: what is inside of what."""

from __future__ import annotations

import contextlib
import socket
import ssl

from support.raw_server import Listener, shut


class TlsProxy(Listener):
    """Answers CONNECT, and forwards whole requests for ``http://`` targets. A context manager."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._context = context
        self.url = f"https://127.0.0.1:{self.port}"
        self.tunnels: list[str] = []

    def serve(self, conn: socket.socket) -> None:
        near = self._context.wrap_socket(conn, server_side=True)
        self.connections.append(near)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = near.recv(1)
            if not byte:
                return
            head += byte
        place = head.split()[1].decode().removeprefix("http://").split("/")[0]
        self.tunnels.append(place)
        host, _, port = place.rpartition(":")
        far = socket.create_connection((host, int(port)))
        self.connections.append(far)
        if head.startswith(b"CONNECT"):
            near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        else:
            far.sendall(head)
        self.start(_pump, far, near)
        _pump(near, far)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := source.recv(65536):
            target.sendall(data)
    for sock in (source, target):
        shut(sock)
