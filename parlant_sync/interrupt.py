"""Waking a thread that waits for the headers of a long poll. With ``pools.py``, all that knows urllib3's inside.

There is no response object to close while a long poll waits, and closing the connection object does not wake its
reader. ``shutdown(2)`` on the live socket does, in about a millisecond, for TLS too. So the connection classes here
publish their socket in the :class:`Slot` of the thread that makes the request; whoever wants that thread back calls
``stop()`` or ``kick()`` on it, or ``stop()`` on the :class:`Calls` it is among. Only the reader itself closes anything.

The same hook knows whether a byte of a request may have left, which decides whether a failed post may be repeated, and
keeps idle connections from being used again after the time at which servers close them.
"""

from __future__ import annotations

import http.client
import io
import os
import socket
import sys
import threading
import time
from typing import Any

from parlant_sync import idle
from parlant_sync.deadline import Deadline
from parlant_sync.errors import ParlantSyncError, copy_for_waiter

# Whether shutdown() wakes a thread in recv(). Not on Windows: polls are kept short there instead.
CAN_WAKE = sys.platform != "win32"
# Servers close idle connections after 4 to 5 s (WIRE.md); a request on one of those is lost without an answer.
REUSE_WITHIN = 2.0

_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)
    ),
]

# ``here.slot``: the slot of the request that this thread makes.
here = threading.local()


def current() -> Slot | None:
    return getattr(here, "slot", None)


def real(sock: Any) -> socket.socket | None:
    """The socket itself: what urllib3 makes of TLS inside of TLS only holds one."""
    while sock is not None and not isinstance(sock, socket.socket):
        sock = getattr(sock, "socket", None)
    return sock


class Interrupted(OSError):
    """The request was cut short by this process, on purpose."""


class Slot:
    """Where a thread's running request can be reached. ``stop`` and ``kick`` may be called from any thread."""

    __slots__ = ("_kicked", "_lock", "_outer", "_pid", "_sock", "_stopped", "deadline", "seen", "sent")

    def __init__(self) -> None:
        # Guards _sock against being closed between a look at it and its shutdown; held for no more than those, and
        # entered again where a signal handler comes in between.
        self._lock = threading.RLock()
        self._sock: socket.socket | None = None
        self._kicked = False
        self._stopped = False
        self._pid = os.getpid()
        self._outer: Slot | None = None  # of a request inside this one: a token callable may ask a server, too
        self.seen = False  # a pool of ours took the request, and so would have told of its bytes
        self.sent = False
        self.deadline: Deadline | None = None  # of the whole answer, its head and its body

    def rearm(self) -> None:
        """Forget earlier kicks. Before the caller looks at what a kick would tell it, or that kick is lost."""
        self._kicked = False

    def __enter__(self) -> Slot:
        self.seen = self.sent = False
        self._outer, here.slot = current(), self
        return self

    def __exit__(self, *_: object) -> None:
        self._outer, here.slot = None, self._outer
        self.unpublish(self._sock)

    @property
    def interrupted(self) -> bool:
        return self._kicked or self._stopped

    def publish(self, sock: Any) -> None:
        sock = real(sock)
        with self._lock:
            self._sock = sock
        # After publishing: a stop from before it has found no socket to wake.
        if self._kicked or self._stopped:
            raise Interrupted("the request was cut short by this process")

    def unpublish(self, sock: Any) -> socket.socket | None:
        """``sock`` is about to be closed, without the lock: a collection in there closes whatever it finds.

        Returns it, or None where it is not the one that is published: such are those that a finalizer closes.
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
        """``stop()`` for finalizers, which may run in any thread, whoever holds the lock."""
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
        sock, self._sock = self._sock, None
        if sock is not None:
            socket.socket.close(sock)


def _shut(sock: socket.socket | None) -> None:
    if sock is not None:
        try:
            # Unbound: SSLSocket.shutdown would tear down state under its reader.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended by itself


class Calls:
    """The requests of one owner that run now, to be ended together.

    No lock: single operations of a set, each whole by itself, so that a signal handler may stop them at any moment.
    """

    __slots__ = ("cause", "running")

    def __init__(self) -> None:
        self.running: set[Slot] = set()
        self.cause: ParlantSyncError | None = None  # why they were ended; what later requests fail with, too

    def enter(self, slot: Slot) -> None:
        """A request begins. Raises what they were stopped with. Whoever calls it takes ``slot`` out of ``running``."""
        self.running.add(slot)
        # After adding: whoever stops them from now on finds it.
        self.check()

    def check(self) -> None:
        if self.cause is not None:
            raise copy_for_waiter(self.cause)

    def stop(self, cause: ParlantSyncError) -> None:
        """End those that run, and every later one at once. One-way; the first cause stays."""
        if self.cause is None:
            self.cause = cause
        for slot in self.running.copy():
            slot.stop()


class _TimedRaw(io.RawIOBase):
    """A socket's stream that ends with the request's time: a read timeout alone starts anew with every byte."""

    def __init__(self, raw: Any, sock: Any, slot: Slot, deadline: Deadline) -> None:
        self._raw = raw
        self._sock = sock
        self._slot = slot
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        left = self._deadline.bound(None)
        if left is not None and left <= 0:
            raise TimeoutError("the answer did not come in time")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._slot.unpublish(self._sock)  # where its connection is closed already, this closes the socket
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        slot = current()
        if slot is not None and slot.deadline is not None:
            stream: Any = self.fp
            self.fp = io.BufferedReader(_TimedRaw(stream.detach(), sock, slot, slot.deadline))


class PublishingConnection:
    """Mixed into a urllib3 connection class."""

    response_class = _TimedResponse
    _connecting = False
    idle_since: float | None = None
    default_socket_options: Any
    sock: Any
    auto_open: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = kwargs.get("socket_options")
        kwargs["socket_options"] = [*(self.default_socket_options if given is None else given), *_KEEPALIVE]
        super().__init__(*args, **kwargs)

    def _new_conn(self) -> Any:
        sock = super()._new_conn()  # type: ignore[misc]
        slot = current()
        if slot is not None:
            try:
                slot.publish(sock)  # before the TLS handshake, which can hang as well
            except BaseException:
                sock.close()
                raise
        return sock

    def connect(self) -> None:
        self._connecting = True
        try:
            super().connect()  # type: ignore[misc]
        finally:
            self._connecting = False
        self._publish()

    def putrequest(self, *args: Any, **kwargs: Any) -> Any:
        if self.sock is not None:
            self._publish()
        return super().putrequest(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> Any:
        if self.sock is None and self.auto_open:
            self.connect()
        slot = current()
        if slot is not None and not self._connecting:  # a proxy's CONNECT is no byte of the request
            slot.sent = True
        return super().send(data)  # type: ignore[misc]

    def close(self) -> None:
        slot = current()
        sock = None if slot is None else slot.unpublish(self.sock)
        super().close()  # type: ignore[misc]
        # A body that is still being read keeps it open.
        if sock is not None and slot is not None and sock.fileno() >= 0:
            slot.publish(sock)

    def _publish(self) -> None:
        slot = current()
        if slot is not None:
            slot.publish(self.sock)


class FreshPool:
    """Mixed into a urllib3 connection pool: a connection that has been idle for long is opened anew."""

    QueueCls: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.QueueCls = idle.Waited if kwargs.get("block") else idle.Idle
        super().__init__(*args, **kwargs)

    def _get_conn(self, timeout: float | None = None) -> Any:
        slot = current()
        if slot is not None:
            slot.seen = True
        conn = super()._get_conn(timeout)  # type: ignore[misc]
        idle_since = getattr(conn, "idle_since", None)
        if idle_since is not None and time.monotonic() - idle_since > REUSE_WITHIN:
            conn.close()
        return conn

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since = time.monotonic()
        super()._put_conn(conn)  # type: ignore[misc]
