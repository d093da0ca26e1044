"""Connections, and how a poll that waits on one is interrupted: ``kick()`` or ``stop()`` of its ``RunningRequest``.

There is no response object to close while a long poll waits, and closing the connection object does not wake its
reader. ``shutdown(2)`` on the live socket does, in about a millisecond, for TLS too. So ``PublishingConnection`` shows
its socket to the ``RunningRequest`` of the thread that makes the request. To get that thread back, call ``stop()`` or
``kick()`` on it, or ``stop()`` on the ``RunningRequests`` it is among. Only the reader itself closes anything.

Each override of urllib3 names the promise (docs/reliability.md) that it keeps.
"""

from __future__ import annotations

import _socket
import contextlib
import http.client
import io
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import urllib3.connection
from urllib3.exceptions import ConnectTimeoutError

from parlant_sync._http import connecting
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
        "connection",
        "deadline",
        "for_polls",
        "pool",
        "request",
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
        self.request: Any = None  # what goes, as requests has prepared it
        self.seen = False  # a pool of ours took the request, and so reports its bytes in ``sent``
        self.sent = False
        self.deadline: Deadline | None = None  # of the whole answer, its head and its body
        self.connection: Any = None  # a poller's own, while it is idle
        self.pool: Any = None  # the ``Idle`` of its pool; no other may take it, which may be another server's

    def rearm(self) -> None:
        """Forget earlier kicks. Look at what a kick would tell you after this: in the other order it is lost."""
        self._kicked = False

    def __enter__(self) -> RunningRequest:
        self.seen = self.sent = False
        self.request = None
        self._outer, here.slot = here.slot, self
        return self

    def __exit__(self, *_: object) -> None:
        self._outer, here.slot = None, self._outer
        with self._lock:
            self._sock = None
        if self._handle is not None:
            self._handle.close()
            self._handle = None

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
        before, self._handle = self._handle, handle
        if before is not None:
            before.close()  # the lock is not held: closing may run finalizers
        self.check()  # after publishing: a stop from before it has found no socket to wake

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
        self.close_idle()

    def close_idle(self) -> None:
        idle, self.connection = self.connection, None
        if idle is not None:
            idle.close()


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


# -- connections

_TLS_RECORD = 16 * 1024
# Bytes. Each idle session has one. Long bodies do not go through it.
_BUFFER = 2048
# A peer that has vanished is noticed after half a minute, in the middle of a long poll as well: by the kernel's probes.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (
            ("TCP_KEEPIDLE", 10),
            ("TCP_KEEPINTVL", 5),
            ("TCP_KEEPCNT", 4),
        )
        if hasattr(socket, name)
    ),
]
# Milliseconds. There are no probes if the peer has not even taken the request.
_TAKEN_WITHIN = 30_000


class _TimedRaw(io.RawIOBase):
    """Promise: an answer has one time limit, to its last byte. A read timeout alone starts again with every byte.

    Promise: an answer that breaks off is a failure. http.client takes the end of the stream for that of the head.
    """

    def __init__(self, sock: Any, slot: RunningRequest, deadline: Deadline) -> None:
        self._raw = sock.makefile("rb", buffering=0)
        self._sock = sock
        self._slot = slot
        self._deadline = deadline
        self.may_end = True  # before the head, where http.client has an error of its own

    def makefile(self, _: str) -> io.BufferedReader:
        """What http.client reads from, which would make it of a socket."""
        return io.BufferedReader(self, _BUFFER)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        left = self._deadline.for_socket()
        if left is not None and left <= 0:
            raise TimeoutError("the answer did not come in time")
        self._sock.settimeout(left)
        size = self._raw.readinto(buffer)
        if size == 0 and not self.may_end:
            raise http.client.IncompleteRead(b"")
        return size

    def close(self) -> None:
        self._slot.unpublish(self._sock)  # if its connection is closed already, this closes the socket
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        slot = here.slot
        self._timed: _TimedRaw | None = None
        if slot is not None and slot.deadline is not None:
            sock = self._timed = _TimedRaw(sock, slot, slot.deadline)
        super().__init__(sock, *args, **kwargs)

    def begin(self, **options: Any) -> None:
        """Promise: no secret in a log record; no socket left open."""
        super().begin(**options)
        if self._timed is None:
            return
        self._timed.may_end = not self.chunked  # urllib3 counts what has a length
        # urllib3 would log what stands behind a line that is not a header, which may be a token of ours.
        self.msg.defects.clear()
        self.msg.set_payload("")
        lengths = {length.strip() for line in self.msg.get_all("Content-Length", ()) for length in line.split(",")}
        if len(lengths) > 1 and not self.chunked:
            raise http.client.HTTPException("the answer has several lengths")  # urllib3 would leave the socket open

    def _read_status(self) -> Any:
        """Promise: each request gets its own answer. http.client skips interim answers of 100 only: it would take
        another one (103 Early Hints) for the answer, and the answer itself for that to the next request."""
        while True:
            found = super()._read_status()  # type: ignore[misc]
            if self._timed is not None:
                self._timed.may_end = False
            if not 100 <= found[1] < 200 or found[1] == http.client.SWITCHING_PROTOCOLS:
                return found
            http.client.parse_headers(self.fp)


class PublishingConnection:
    """Mixed into a urllib3 connection class: publishes its socket in the slot of the thread that makes the request."""

    response_class = _TimedResponse
    _connecting = False
    idle_since: float | None = None
    default_socket_options: Any
    host: Any
    port: Any
    sock: Any
    socket_options: Any
    source_address: Any
    timeout: Any
    auto_open: int
    _dns_host: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Promise: a connection that died without a word is noticed."""
        given = kwargs.get("socket_options")
        kwargs["socket_options"] = [*(self.default_socket_options if given is None else given), *_KEEPALIVE]
        super().__init__(*args, **kwargs)
        self.pid = os.getpid()

    def _new_conn(self) -> Any:
        """Promise: after the time of a request, or its stop, nothing of it is sent; and a handshake can be ended."""
        slot = here.slot
        if slot is None:
            return super()._new_conn()  # type: ignore[misc]
        slot.check()
        self.pid = os.getpid()
        sock = connecting.connect(self, slot, super()._new_conn)  # type: ignore[misc]
        try:
            if slot.deadline is not None and slot.deadline.expired():
                raise ConnectTimeoutError(self, f"Connecting to {self.host} took too long.")
            if slot.for_polls and hasattr(socket, "TCP_USER_TIMEOUT"):
                # Not for calls: a living server may take a long message slowly, for as long as the call may. Nor for
                # connecting, which has its own time. Some systems refuse it (WSL 1).
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TAKEN_WITHIN)
            slot.publish(sock, for_handshake=isinstance(self, urllib3.connection.HTTPSConnection))
        except BaseException:
            slot.unpublish(sock)
            sock.close()
            raise
        return sock

    def connect(self) -> None:
        """Promise: only bytes of the request itself make its delivery uncertain, not those of a proxy's CONNECT."""
        self._connecting = True
        try:
            super().connect()  # type: ignore[misc]
        finally:
            self._connecting = False
        if here.slot is not None:
            here.slot.publish(self.sock)

    def putrequest(self, *args: Any, **kwargs: Any) -> Any:
        """Promise: ``close()`` ends a request that is under way. On a connection that was used before."""
        if self.sock is not None and here.slot is not None:
            here.slot.publish(self.sock)
        return super().putrequest(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> Any:
        """Promise: uncertain only if a byte was sent; and sending has the request's time, not that of connecting."""
        if self.sock is None and self.auto_open:
            self.connect()
        slot = here.slot
        if slot is None or self._connecting:
            return super().send(data)  # type: ignore[misc]
        if slot.deadline is None or not isinstance(data, (bytes, bytearray)):
            slot.sent = True
            return super().send(data)  # type: ignore[misc]
        view = memoryview(data)
        for at in range(0, len(view), _TLS_RECORD):  # TLS starts a timeout again with each of its records
            left = slot.deadline.for_socket()
            if left == 0 and not slot.sent:
                raise ConnectTimeoutError(self, "The time was over before the request went out.")
            slot.sent = True
            try:
                if left == 0:
                    raise TimeoutError
                self.sock.settimeout(left)
                super().send(view[at : at + _TLS_RECORD])  # type: ignore[misc]
            except TimeoutError:
                raise TimeoutError("the request did not go out in time") from None

    def close(self) -> None:
        """Promise: stopping a request touches no descriptor that was closed and given out again."""
        slot = here.slot
        sock = None if slot is None else slot.unpublish(self.sock)
        super().close()  # type: ignore[misc]
        # A body that is still being read keeps it open.
        if sock is not None and slot is not None and sock.fileno() >= 0:
            slot.publish(sock)


def publishing(connection: Any) -> Any:
    """A connection class of urllib3, taught to publish. A stand-in without sockets (vcrpy's) stays as it is."""
    if getattr(connection, "getresponse", None) is not urllib3.connection.HTTPConnection.getresponse:
        return connection
    taught = _taught.get(connection)
    if taught is None:
        taught = type(f"Publishing{connection.__name__}", (PublishingConnection, connection), {})
        _taught[connection] = taught  # two threads at once make two of the same
    return taught


_taught: dict[Any, Any] = {}
