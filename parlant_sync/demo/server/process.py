"""What the server's process does around Parlant: it binds its ports first, and it ends when asked to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Below the ports that systems give to outgoing connections: a restarted server must find its port free.
_PORTS = range(20000, 32000)


class HeldPorts:
    """Sockets that are bound already. The uvicorn servers of the same ports will listen on them.

    So port 0 becomes a real port at once, no other process can take it, a port in use is an error before Parlant is
    imported, and "ready" can be printed at the moment when the server listens.
    """

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}

    def hold(self, host: str, port: int = 0) -> int:
        """Bind *port* (0: any free one) and return its number. Raises OSError if it is in use."""
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
            # A restarted server must not wait until the connections of the old one are forgotten.
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind((host, port))
        except OSError:
            held.close()
            raise
        number: int = held.getsockname()[1]
        self._sockets[number] = held
        return number

    def give_to_uvicorn(self, started: Callable[[int], None]) -> None:
        """Let uvicorn's servers use the held sockets; call *started* with each port that listens."""
        import uvicorn  # not earlier: a port in use must be reported first

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


def end_when_asked(orphan: Path | None) -> None:
    """End on SIGTERM and SIGINT, and with stdin: the process that owned this one is gone then, and *orphan* is removed.

    While it serves, uvicorn has its own handlers: it stops, then raises the signal again, for ours. If ours returned,
    Parlant would wait for tasks that never end.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))
    # Daemon: it blocks in a read that only the end of stdin ends.
    threading.Thread(target=_end_with_stdin, args=(orphan,), name="stdin", daemon=True).start()


def _end_with_stdin(orphan: Path | None) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    if orphan is not None:
        os.chdir(os.sep)
        for _ in range(2):  # a store may just be writing a file there
            shutil.rmtree(orphan, ignore_errors=True)
    os._exit(0)


def end_if_failed(task: asyncio.Task[None]) -> None:
    """End the process with the traceback of a *task* that the server cannot do without."""
    if not task.cancelled() and (error := task.exception()):
        traceback.print_exception(error)
        os._exit(1)
