"""Waking a thread that waits for the headers of a long poll.

There is no response object to close while a long poll waits, and closing the connection object does not wake its
reader. ``shutdown(2)`` on the live socket does, in about a millisecond, for TLS too. So ``connection.py`` publishes
sockets in the ``RunningRequest`` of the thread that makes the request. To get that thread back, call ``stop()`` or
``kick()`` on it, or ``stop()`` on the ``RunningRequests`` it is among. Only the reader itself closes anything.
"""

from __future__ import annotations

import _socket
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from parlant_sync.errors import ParlantSyncError, copy_for_waiter

if TYPE_CHECKING:
    from parlant_sync._deadline import Deadline

_REAL: Any = _socket.socket  # also while gevent or eventlet have replaced ``socket.socket``

# Whether shutdown() wakes a thread in recv(). Not on Windows: polls are kept short there instead.
CAN_WAKE = sys.platform != "win32"


class _Here(threading.local):
    slot: RunningRequest | None = None


# ``here.slot``: the request that this thread makes now, if it makes one.
here = _Here()


def real(sock: Any) -> socket.socket | None:
    """The socket itself. What urllib3 uses for TLS inside TLS is no socket, but holds one."""
    while sock is not None and not isinstance(sock, (socket.socket, _REAL)):
        sock = getattr(sock, "socket", None)
    found: socket.socket | None = sock
    return found


class Interrupted(OSError):
    """The request was cut short by this process, on purpose."""


class RunningRequest:
    """Where a thread's running request can be reached. ``stop`` and ``kick`` may be called from any thread."""

    __slots__ = (
        "_handle",
        "_kicked",
        "_lock",
        "_outer",
        "_pid",
        "_sock",
        "_stopped",
        "deadline",
        "for_polls",
        "pool",
        "seen",
        "sent",
    )

    def __init__(self, *, for_polls: bool = False) -> None:
        self.for_polls = for_polls
        # Guards _sock against being closed between a look at it and its shutdown; held for no more than those, and
        # entered again where a signal handler comes in between.
        self._lock = threading.RLock()
        self._sock: socket.socket | None = None
        self._handle: socket.socket | None = None  # _sock, if it is a duplicate of our own
        self._kicked = False
        self._stopped = False
        self._pid = os.getpid()
        # The request that this one is made in: a token callable may ask a server, too.
        self._outer: RunningRequest | None = None
        self.seen = False  # a pool of ours took the request, and so reports its bytes in ``sent``
        self.sent = False
        self.deadline: Deadline | None = None  # of the whole answer, its head and its body
        self.pool: Any = None  # a poller's own connections (``Adapter``)

    def rearm(self) -> None:
        """Forget earlier kicks. Look at what a kick would tell you after this: in the other order it is lost."""
        self._kicked = False

    def __enter__(self) -> RunningRequest:
        self.seen = self.sent = False
        self._outer, here.slot = here.slot, self
        return self

    def __exit__(self, *_: object) -> None:
        self._outer, here.slot = None, self._outer
        self.unpublish(self._sock)
        self._drop_handle()

    @property
    def interrupted(self) -> bool:
        return self._kicked or self._stopped

    def publish(self, sock: Any, *, for_handshake: bool = False) -> None:
        """``sock`` is what ``stop`` and ``kick`` shut down from now on. Raises Interrupted if one of them came before.

        ``for_handshake``: it is about to be wrapped, which takes its descriptor away: a duplicate is published.
        """
        sock = real(sock)
        handle = sock.dup() if for_handshake and sock is not None else None
        with self._lock:
            self._sock = handle or sock
        self._drop_handle()
        self._handle = handle
        self.check()  # after publishing: a stop from before it has found no socket to wake

    def _drop_handle(self) -> None:
        """The lock is not held: closing may run finalizers."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    def check(self) -> None:
        if self._kicked or self._stopped:
            raise Interrupted("the request was cut short by this process")

    def unpublish(self, sock: Any) -> socket.socket | None:
        """``sock`` is about to be closed, without the lock, because closing may run finalizers.

        Returns it; None if it is not the one that is published (a finalizer may close others).
        """
        found = self._sock
        if found is None or found is not real(sock):
            return None
        with self._lock:
            self._sock = None
        return found

    def kick(self) -> None:
        """End the request that runs now, if one does."""
        self._kicked = True
        self._shut()

    def stop(self) -> None:
        """End the request that runs now, and every later one at once. One-way."""
        self._stopped = True
        self._shut()

    def stop_without_lock(self) -> None:
        """``stop()`` for finalizers, which may run in any thread, whichever thread holds the lock."""
        self._stopped = True
        if self._pid == os.getpid():
            _shut(self._sock)

    def _shut(self) -> None:
        # In a forked child this is the parent's connection, which it would cut, and the lock may be another thread's.
        if self._pid == os.getpid():
            with self._lock:
                _shut(self._sock)

    def drop_inherited(self) -> None:
        """In a forked child: give the descriptor back without a word to the peer, who still talks with the parent."""
        sock, self._sock, self._handle = self._sock, None, None
        if sock is not None:
            sock.close()


def _shut(sock: socket.socket | None) -> None:
    if sock is not None:
        try:
            # Unbound: SSLSocket.shutdown would tear down state under its reader. eventlet's sockets have another base.
            if isinstance(sock, _REAL):
                _socket.socket.shutdown(sock, socket.SHUT_RDWR)
            else:
                sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended by itself


class RunningRequests:
    """The requests of one owner that run now, to be ended together.

    No lock: single operations of a set, each whole by itself, so that a signal handler may stop them at any moment.
    """

    __slots__ = ("cause", "running")

    def __init__(self) -> None:
        self.running: set[RunningRequest] = set()
        self.cause: ParlantSyncError | None = None  # why they were ended; what later requests fail with, too

    def enter(self, slot: RunningRequest) -> None:
        """A request begins. Raises what they were stopped with. The caller takes ``slot`` out of ``running``."""
        self.running.add(slot)
        if self.cause is not None:  # after adding: a stop() from now on finds it
            self.check()

    def check(self) -> None:
        ended = self.ended()
        if ended is not None:
            raise ended

    def ended(self) -> BaseException | None:
        """A copy of what they were stopped with; None if they were not."""
        return None if self.cause is None else copy_for_waiter(self.cause)

    def stop(self, cause: ParlantSyncError) -> None:
        """End those that run, and every later one at once. One-way; the first cause stays."""
        if self.cause is None:
            self.cause = cause
        for slot in self.running.copy():
            slot.stop()
