"""Binds the server's ports before uvicorn does.

Port 0 becomes a real port without the gap in which another process could take it, a port that
is taken is an error at once, and "ready" is said when the server listens, not a poll later.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable
from typing import Any

# Below the ports that systems give to outgoing connections: a server that is started again must
# find its port as it left it.
_PORTS = range(20000, 32000)


class HeldPorts:
    """Sockets that are bound, and that uvicorn servers of the same port are to listen on."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def hold(self, host: str, port: int = 0) -> int:
        """Bind *port* (0: any free one) and return its number. Raises OSError where it is taken."""
        if port:
            return self._hold(host, port)
        for candidate in random.sample(_PORTS, 20):
            try:
                return self._hold(host, candidate)
            except OSError:
                continue
        return self._hold(host, 0)

    def _hold(self, host: str, port: int) -> int:
        held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            # A server that is started again must not wait until its old connections are forgotten.
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
        import uvicorn  # not before: a port that is taken is to be found out first

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
