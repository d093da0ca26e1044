"""What urllib3's connections and pools do besides in our requests. With ``pools.py``, all that knows urllib3's inside.

They publish their socket in the slot of the thread that makes the request (``interrupt.py``), know whether a byte of it
may have left, which decides whether a failed post may be repeated, keep each request within its time, and are not used
again after the time at which servers close idle ones.
"""

from __future__ import annotations

import http.client
import io
import queue
import socket
import time
from typing import Any

from urllib3.util import Retry

from parlant_sync._deadline import Deadline
from parlant_sync._http import dialing
from parlant_sync._http.interrupt import RunningRequest, current

# Servers close idle connections after 4 to 5 s (WIRE.md); a request on one of those is lost without an answer.
REUSE_WITHIN = 2.0
# What requests passes on by default. A caller's adapter with other retries would post again below us, and have two
# copies of a message stored; and nothing could cut the pauses in between short.
_ONCE = Retry(0, read=False)

_TLS_RECORD = 16 * 1024

_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)
    ),
]


class _TimedRaw(io.RawIOBase):
    """A socket's stream that ends with the request's time: a read timeout alone starts anew with every byte."""

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

    def begin(self) -> None:
        super().begin()
        if current() is None or self.msg is None:
            return
        # urllib3 would log what stands behind a header that is none, which may be anything: a token of ours, too.
        self.msg.defects.clear()
        self.msg.set_payload("")
        lengths = {length.strip() for line in self.msg.get_all("Content-Length", ()) for length in line.split(",")}
        if len(lengths) > 1 and not self.chunked:
            raise http.client.HTTPException("the answer tells several lengths")  # urllib3 would leave the socket open

    def _read_status(self) -> Any:
        """http.client skips interim answers of 100 alone. Another one (103 Early Hints) would be taken for the answer,
        and the answer itself for that to the next request of the connection."""
        while True:
            found = super()._read_status()  # type: ignore[misc]
            if not 100 <= found[1] < 200 or found[1] == http.client.SWITCHING_PROTOCOLS:
                return found
            http.client.parse_headers(self.fp)


class PublishingConnection:
    """Mixed into a urllib3 connection class."""

    response_class = _TimedResponse
    _connecting = False
    idle_since: float | None = None
    default_socket_options: Any
    sock: Any
    timeout: Any
    auto_open: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = kwargs.get("socket_options")
        kwargs["socket_options"] = [*(self.default_socket_options if given is None else given), *_KEEPALIVE]
        super().__init__(*args, **kwargs)

    def _new_conn(self) -> Any:
        slot, usual = current(), super()._new_conn  # type: ignore[misc]
        if slot is not None and dialing.is_usual(usual):
            limit = self.timeout if isinstance(self.timeout, (int, float)) else None
            return dialing.dial(self, slot, Deadline(limit if slot.deadline is None else slot.deadline.bound(limit)))
        sock = usual()
        if slot is not None:
            try:
                slot.publish(sock)
            except BaseException:
                sock.close()
                raise
        return sock

    def _tunnel(self) -> None:
        super()._tunnel()  # type: ignore[misc]
        self._publish()  # once more: the end of the proxy's answer has taken it back

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
        if slot is None or self._connecting:  # a proxy's CONNECT is no byte of the request
            return super().send(data)  # type: ignore[misc]
        slot.sent = True
        if slot.deadline is None or not isinstance(data, (bytes, bytearray)):
            return super().send(data)  # type: ignore[misc]
        # urllib3 would give it the time for connecting; and TLS counts a timeout anew with each of its records.
        view = memoryview(data)
        for at in range(0, len(view), _TLS_RECORD):
            left = slot.deadline.for_socket()
            try:
                if left == 0:
                    raise TimeoutError
                self.sock.settimeout(left)
                super().send(view[at : at + _TLS_RECORD])  # type: ignore[misc]
            except TimeoutError:
                raise TimeoutError("the request did not go out in time") from None

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


# What urllib3 keeps in a ``queue.LifoQueue``, without that one's lock. An exception that a signal handler raises
# (Ctrl-C, Celery's soft time limit) can strike inside ``Condition.__enter__``: the lock is then taken for ever, and
# every later call of the client hangs. Single operations on lists leave no lock for a forked child to inherit either.
class Idle:
    """Last in, first out; ``get`` never waits. Two that put at once may bring it one over ``maxsize``: no harm."""

    def __init__(self, maxsize: int = 0) -> None:
        self._maxsize = maxsize
        self._items: list[Any] = []

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if 0 < self._maxsize <= len(self._items):
            raise queue.Full
        self._items.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        return len(self._items)


class Waited(Idle):
    """Of a caller's adapter with ``pool_block=True``: ``get`` waits for a connection that another thread returns."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._there: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each item

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item)
        self._there.put(None)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self._there.get(block, timeout)
        return super().get()


class FreshPool:
    """Mixed into a urllib3 connection pool: a connection that has been idle for long is opened anew."""

    QueueCls: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.QueueCls = Waited if kwargs.get("block") else Idle
        super().__init__(*args, **kwargs)

    def urlopen(
        self, method: Any, url: Any, body: Any = None, headers: Any = None, retries: Any = None, *args: Any, **kw: Any
    ) -> Any:
        if current() is not None:
            retries = _ONCE
        return super().urlopen(method, url, body, headers, retries, *args, **kw)  # type: ignore[misc]

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
