"""Binds the server's ports before uvicorn does.

Port 0 becomes a real port without the gap in which another process could take it, a port that
is taken is an error at once, and "ready" is said when the server listens, not a poll later.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import uvicorn


class HeldPorts:
    """Sockets that are bound, and that uvicorn servers of the same port are to listen on."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def hold(self, host: str, port: int = 0) -> int:
        """Bind *port* (0: any free one) and return its number. Raises OSError where it is taken."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        held = socket.socket(family, socket.SOCK_STREAM)
        try:
            # A server that is started again must not wait for its old connections to be forgotten.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((host, port))
        except OSError:
            held.close()
            raise
        number: int = held.getsockname()[1]
        self._sockets[number] = held
        return number

    def give_to_uvicorn(self, started: Callable[[int], None]) -> None:
        """Let uvicorn servers use the held sockets; *started* is told each port that listens."""
        original = uvicorn.Server.startup
        held = self._sockets

        async def startup(server: Any, sockets: Any = None) -> None:
            port = server.config.port
            if sockets is None and port in held:
                sockets = [held[port]]
            await original(server, sockets=sockets)
            if server.started:
                started(port)

        uvicorn.Server.startup = startup
