"""Looking up the addresses of a host within the time of its request."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Any

from parlant_sync._deadline import Deadline
from parlant_sync._http.interrupt import RunningRequest


def in_time(look_up: Callable[[], list[Any]], slot: RunningRequest, until: Deadline) -> list[Any]:
    """What ``look_up()`` returns or raises; TimeoutError at ``until``, Interrupted if the request is stopped.

    Nothing can interrupt the system's resolver. So it runs in a thread of its own, which is left to end by itself.
    """
    found: list[list[Any] | Exception] = []
    # A request is stopped by shutting down its socket; until there is one, this stands in its place.
    ours, its = socket.socketpair()

    def run() -> None:
        try:
            found.append(look_up())
        except Exception as error:
            found.append(error)
        # Shut down, not only closed: a process forked meanwhile has a copy of the descriptor. Nothing is sent: if
        # nobody waits any more, that would be a SIGPIPE, which ends programs that do not ignore it.
        with its, contextlib.suppress(OSError):
            its.shutdown(socket.SHUT_RDWR)

    with ours:
        try:
            threading.Thread(target=run, name="parlant-sync-resolve", daemon=True).start()
        except RuntimeError:  # no thread, or no daemon thread (a subinterpreter): then it takes as long as it takes
            run()
        try:
            slot.publish(ours)
            left = until.for_socket()
            ours.settimeout(left or (None if left is None else 0.001))
            ours.recv(1)
        finally:
            slot.unpublish(ours)
    slot.check()
    (result,) = found
    if isinstance(result, Exception):
        raise result
    return result
