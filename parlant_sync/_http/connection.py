"""What this library adds to urllib3's connections and pools. With ``adapter.py``, all that knows urllib3's inside.

Each override names the promise (docs/reliability.md) that it keeps.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import queue
import socket
import sys
import time
from typing import Any

import urllib3.connection
from urllib3.exceptions import ConnectTimeoutError, LocationParseError, NameResolutionError, NewConnectionError
from urllib3.util import Retry
from urllib3.util import connection as urllib3_connecting
from urllib3.util.ssl_ import is_ipaddress

from parlant_sync._deadline import Deadline
from parlant_sync._http import resolving
from parlant_sync._http.interrupt import RunningRequest, here

# Servers close idle connections after 4 to 5 s (WIRE.md); a request on one of those is lost without an answer.
REUSE_WITHIN = 2.0
# What requests passes on by default. A caller's adapter with other retries would post again below us, and have two
# copies of a message stored; and nothing could cut the pauses in between short.
_ONCE = Retry(0, read=False)
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
    """Promise: an answer has one time limit, to its last byte. A read timeout alone starts again with every byte."""

    def __init__(self, raw: Any, sock: Any, slot: RunningRequest, deadline: Deadline) -> None:
        self._raw = raw
        self._sock = sock
        self._slot = slot
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> Any:
        left = self._deadline.for_socket()
        if left is not None and left <= 0:
            raise TimeoutError("the answer did not come in time")
        self._sock.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._slot.unpublish(self._sock)  # if its connection is closed already, this closes the socket
        self._raw.close()
        super().close()


class _WholeLines(io.BufferedReader):
    """Promise: an answer that breaks off is a failure. http.client takes the end of the stream for that of the head."""

    _begun = False

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        if not line.endswith(b"\n") and (line or self._begun) and (size is None or size < 0 or len(line) < size):
            raise http.client.IncompleteRead(line)
        self._begun = True
        return line


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        slot = here.slot
        if slot is not None and slot.deadline is not None:
            stream: Any = self.fp
            self.fp = _WholeLines(_TimedRaw(stream.detach(), sock, slot, slot.deadline), _BUFFER)

    def begin(self) -> None:
        """Promise: no secret in a log record; no socket left open."""
        super().begin()
        if here.slot is None or self.msg is None:
            return
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
        self._pid = os.getpid()

    def _new_conn(self) -> Any:
        """Promise: after the time of a request, or its stop, nothing of it is sent; and a handshake can be ended."""
        slot = here.slot
        if slot is None:
            return super()._new_conn()  # type: ignore[misc]
        slot.check()
        self._pid = os.getpid()
        sock = self._first_that_answers(slot)
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

    def _first_that_answers(self, slot: RunningRequest) -> Any:
        """Promise: all addresses of a name share one time for connecting. urllib3 gives the whole of it to each."""
        connect, timeout, deadline = super()._new_conn, self.timeout, slot.deadline  # type: ignore[misc]
        if deadline is None or getattr(connect, "__func__", None) is not urllib3.connection.HTTPConnection._new_conn:
            return connect()  # SOCKS resolves by itself
        if getattr(urllib3_connecting.create_connection, "__globals__", None) is not vars(urllib3_connecting):
            return connect()  # the caller has replaced it, to find hosts in its own way
        until = Deadline(deadline.bound(timeout if isinstance(timeout, (int, float)) else None))
        addresses = self._addresses(slot, until)
        for number, (*kind, _, address) in enumerate(addresses, 1):
            left = until.for_socket()
            # An equal part for each that is left, so that a silent one leaves time for those behind it.
            share = None if left is None else max(left / (len(addresses) - number + 1), 0.001)
            try:
                sock = self._connected(slot, kind, address, share)
            except OSError as error:
                slot.check()
                if number == len(addresses) or until.expired():
                    raise self._not_connected(error) from error
            else:
                sys.audit("http.client.connect", self, self.host, self.port)  # as urllib3 does
                return sock
        raise self._not_connected(OSError("the name has no address"))

    def _addresses(self, slot: RunningRequest, until: Deadline) -> list[Any]:
        """Promise: a slow resolver costs no more than the time for connecting, and a stop does not wait for it."""
        name = self._dns_host.strip("[]")
        family = urllib3_connecting.allowed_gai_family()  # callers replace it, to use IPv4 only
        try:
            if is_ipaddress(name):
                found = socket.getaddrinfo(name, self.port, family, socket.SOCK_STREAM)
            else:
                found = resolving.addresses(name, self.port, family, slot, until)
        except UnicodeError:
            raise LocationParseError(f"'{name}', label empty or too long") from None
        except OSError as error:
            slot.check()
            raise self._not_connected(error) from error
        return list(dict.fromkeys(found))

    def _connected(self, slot: RunningRequest, kind: list[Any], address: Any, timeout: float | None) -> socket.socket:
        """Promise: a stop ends connecting, too (on Linux). urllib3 shows no socket before it is connected."""
        sock = socket.socket(*kind)
        try:
            for option in self.socket_options:
                sock.setsockopt(*option)
            if self.source_address:
                sock.bind(self.source_address)
            sock.settimeout(timeout)
            slot.publish(sock)
            sock.connect(address)
        except BaseException:
            slot.unpublish(sock)
            sock.close()
            raise
        return sock

    def _not_connected(self, error: OSError) -> Exception:
        """urllib3's error for it, by which requests and ``error_mapping.py`` know that nothing was sent."""
        me: Any = self
        if isinstance(error, socket.gaierror):
            return NameResolutionError(self.host, me, error)
        if isinstance(error, TimeoutError):
            return ConnectTimeoutError(self, f"Connecting to {self.host} took too long.")
        return NewConnectionError(me, error.strerror or str(error))

    def connect(self) -> None:
        """Promise: only bytes of the request itself make its delivery uncertain, not those of a proxy's CONNECT."""
        self._connecting = True
        try:
            super().connect()  # type: ignore[misc]
        finally:
            self._connecting = False
        self._publish()

    def putrequest(self, *args: Any, **kwargs: Any) -> Any:
        """Promise: ``close()`` ends a request that is under way. On a connection that was used before."""
        if self.sock is not None:
            self._publish()
        return super().putrequest(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> Any:
        """Promise: uncertain only if a byte was sent; and sending has the request's time, not that of connecting."""
        if self.sock is None and self.auto_open:
            self.connect()
        slot = here.slot
        if slot is None or self._connecting:
            return super().send(data)  # type: ignore[misc]
        if not slot.sent and slot.deadline is not None and slot.deadline.expired():
            raise ConnectTimeoutError(self, "The time was over before the request went out.")
        slot.sent = True
        if slot.deadline is None or not isinstance(data, (bytes, bytearray)):
            return super().send(data)  # type: ignore[misc]
        view = memoryview(data)
        for at in range(0, len(view), _TLS_RECORD):  # TLS starts a timeout again with each of its records
            left = slot.deadline.for_socket()
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

    def is_of_this_process(self) -> bool:
        return self._pid == os.getpid()

    def _publish(self) -> None:
        slot = here.slot
        if slot is not None:
            slot.publish(self.sock)


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


class Idle:
    """The idle connections of a pool, last in, first out, in place of urllib3's ``queue.LifoQueue``.

    Promise: an exception that a signal handler raises leaves the client usable. In ``Condition.__enter__`` it would
    leave the queue's lock taken for ever. Single operations on a list need no lock, and a forked child inherits none.
    If it is full, the connection that was idle for the longest time goes: urllib3 would close the newest one, and log a
    warning for each.
    """

    def __init__(self, maxsize: int = 0) -> None:
        self._maxsize = maxsize
        self._items: list[Any] = []

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._items.append(item)
        if 0 < self._maxsize < len(self._items):
            oldest = self._items.pop(0)
            if oldest is not None:  # urllib3 fills a new pool with None
                oldest.close()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        return len(self._items)


class FreshPool:
    """Mixed into a urllib3 connection pool."""

    QueueCls: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if not kwargs.get("block"):  # a caller's adapter with pool_block=True waits for connections, and needs a queue
            self.QueueCls = Idle
        super().__init__(*args, **kwargs)

    @property
    def ConnectionCls(self) -> Any:  # noqa: N802
        """Looked up each time, because vcrpy and others replace it for a while."""
        given = self.__dict__.get("_connection_class")
        return publishing(super().ConnectionCls if given is None else given)  # type: ignore[misc]

    @ConnectionCls.setter
    def ConnectionCls(self, value: Any) -> None:  # noqa: N802
        self.__dict__["_connection_class"] = value

    def urlopen(self, *args: Any, **kwargs: Any) -> Any:
        """Promise: one call posts a message at most once. Arguments go on as they came: some instrumentations (of
        OpenTelemetry) take only keywords."""
        if here.slot is not None and len(args) < 5:
            kwargs["retries"] = _ONCE
        return super().urlopen(*args, **kwargs)  # type: ignore[misc]

    def _get_conn(self, timeout: float | None = None) -> Any:
        """Promise: no request goes out on a connection that is idle for long, or that a parent process uses."""
        conn = super()._get_conn(timeout)  # type: ignore[misc]
        if not isinstance(conn, PublishingConnection):
            return conn
        slot = here.slot
        if slot is not None:
            slot.seen = True
        stale = conn.idle_since is not None and time.monotonic() - conn.idle_since > REUSE_WITHIN
        if stale or not conn.is_of_this_process():
            conn.close()  # closes the descriptor; the peer hears nothing while the parent has it open
        return conn

    def _put_conn(self, conn: Any) -> None:
        if isinstance(conn, PublishingConnection):
            conn.idle_since = time.monotonic()
        super()._put_conn(conn)  # type: ignore[misc]
