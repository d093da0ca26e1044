"""Looking up the addresses of a host within the time of its request."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import Any

from parlant_sync._deadline import Deadline
from parlant_sync._http.interrupt import RunningRequest

# Seconds for which others join a look-up. When the resolver is back, a new one is answered sooner than an old one.
_SHARED_FOR = 5.0


class _LookUp:
    """A look-up that is under way. It has no lock: the operations on its list are atomic."""

    def __init__(self) -> None:
        self.joinable = Deadline(_SHARED_FOR)
        self.found: list[Any] | BaseException | None = None
        self.waiting: list[socket.socket] = []  # the one who takes a socket out closes it

    def end(self, found: list[Any] | BaseException) -> None:
        self.found = found
        while self.waiting:  # a request that joins from now on sees ``found``
            # Shut down, not only closed: a process forked meanwhile has a copy of the descriptor. Nothing is sent: that
            # could be a SIGPIPE, which ends programs that do not ignore it.
            with contextlib.suppress(IndexError, OSError), self.waiting.pop() as its:
                its.shutdown(socket.SHUT_RDWR)


# By process, name, port and family: what others may join. Sessions are many, and while a resolver does not answer, each
# would leave a thread behind every few seconds.
_under_way: dict[tuple[Any, ...], _LookUp] = {}


def addresses(name: str, port: int, family: Any, slot: RunningRequest, until: Deadline) -> list[Any]:
    """``socket.getaddrinfo`` for TCP; TimeoutError at ``until``, Interrupted if the request is stopped.

    Nothing can interrupt the system's resolver. So it runs in a thread of its own, which is left to end by itself.
    """
    look_up = _joined(name, port, family)
    # A request is stopped by shutting down its socket; until there is one, this stands in its place.
    ours, its = socket.socketpair()
    with ours:
        look_up.waiting.append(its)
        try:
            slot.publish(ours)
            if look_up.found is None:
                left = until.for_socket()
                ours.settimeout(left or (None if left is None else 0.001))
                ours.recv(1)
        finally:
            slot.unpublish(ours)
            with contextlib.suppress(ValueError):  # taken out already
                look_up.waiting.remove(its)
                its.close()
    slot.check()
    found = look_up.found
    assert found is not None
    if isinstance(found, BaseException):
        raise found.with_traceback(None)  # others raise it, too
    return found


def _joined(name: str, port: int, family: Any) -> _LookUp:
    key = (os.getpid(), name, port, family)
    made = _LookUp()
    known = _under_way.setdefault(key, made)
    if known is not made and not known.joinable.expired():
        return known
    _under_way[key] = made

    def run() -> None:
        found: list[Any] | BaseException
        try:
            found = socket.getaddrinfo(name, port, family, socket.SOCK_STREAM)
        except BaseException as error:
            found = error
        if _under_way.get(key) is made:
            _under_way.pop(key, None)  # first: what was found is not for later requests
        made.end(found)

    try:
        threading.Thread(target=run, name="parlant-sync-resolve", daemon=True).start()
    except RuntimeError:  # no thread, or no daemon thread (a subinterpreter): then it takes as long as it takes
        run()
    except BaseException:  # of a signal handler: the thread may not come up
        _under_way.pop(key, None)
        raise
    return made
