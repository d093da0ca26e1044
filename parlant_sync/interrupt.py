"""Waking a thread that waits for the headers of a long poll. The only file that knows urllib3's inside.

There is no response object to close while a long poll waits, and closing the connection object does not wake its
reader. ``shutdown(2)`` on the live socket does, in about a millisecond, for TLS too. So the connection classes here
publish their socket in the :class:`Slot` of the thread that makes the request; whoever wants that thread back calls
``stop()`` or ``kick()`` on the slot. Nobody but the reader itself closes anything.

The same hook knows whether a byte of a request may have left, which decides whether a failed post may be repeated, and
keeps idle connections from being used again after the time at which servers close them.
"""

from __future__ import annotations

import functools
import http.client
import io
import os
import socket
import sys
import threading
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from parlant_sync.deadline import Deadline

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

_here = threading.local()


class Interrupted(OSError):
    """The request was cut short by this process, on purpose."""


class Slot:
    """Where a thread's running request can be reached. ``stop`` and ``kick`` may be called from any thread."""

    __slots__ = ("_kicked", "_lock", "_outer", "_pid", "_sock", "_stopped", "deadline", "sent")

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _sock against being closed between a look at it and its shutdown
        self._sock: socket.socket | None = None
        self._kicked = False
        self._stopped = False
        self._pid = os.getpid()
        self._outer: Slot | None = None  # of a request inside this one: a token callable may ask a server, too
        self.sent = False
        self.deadline: Deadline | None = None  # of the whole answer, its head and its body

    def rearm(self) -> None:
        """Forget earlier kicks. Before the caller looks at what a kick would tell it, or that kick is lost."""
        self._kicked = False

    def __enter__(self) -> Slot:
        self.sent = False
        self._outer, _here.slot = _slot(), self
        return self

    def __exit__(self, *_: object) -> None:
        self._outer, _here.slot = None, self._outer
        with self._lock:
            self._sock = None

    @property
    def interrupted(self) -> bool:
        return self._kicked or self._stopped

    def publish(self, sock: socket.socket | None) -> None:
        with self._lock:
            self._sock = sock
        # After publishing: a stop from before it has found no socket to wake.
        if self._kicked or self._stopped:
            raise Interrupted("the request was cut short by this process")

    def closing(self, close: Any) -> None:
        with self._lock:
            close()

    def kick(self) -> None:
        """End the request that runs now, if one does."""
        self._kicked = True
        with self._lock:
            self._shut()

    def stop(self) -> None:
        """End the request that runs now, and every later one at once. One-way."""
        self._stopped = True
        with self._lock:
            self._shut()

    def stop_without_lock(self) -> None:
        """``stop()`` for finalizers, which may run in a thread that holds the lock."""
        self._stopped = True
        self._shut()

    def _shut(self) -> None:
        sock = self._sock
        # In a forked child this is the parent's connection: shutting it down would cut the parent.
        if sock is None or self._pid != os.getpid():
            return
        try:
            # Unbound: SSLSocket.shutdown would tear down state under its reader.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended by itself

    def drop_inherited(self) -> None:
        """In a forked child: give the descriptor back without a word to the peer, who still talks with the parent."""
        sock, self._sock = self._sock, None
        if sock is not None:
            socket.socket.close(sock)


def _slot() -> Slot | None:
    return getattr(_here, "slot", None)


class _TimedRaw(io.RawIOBase):
    """A socket's stream that ends with the request's time: a read timeout alone starts anew with every byte."""

    def __init__(self, raw: Any, sock: Any, deadline: Deadline) -> None:
        self._raw = raw
        self._sock = sock
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
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        slot = _slot()
        if slot is not None and slot.deadline is not None:
            stream: Any = self.fp
            self.fp = io.BufferedReader(_TimedRaw(stream.detach(), sock, slot.deadline))


class _PublishingConnection:
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
        slot = _slot()
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
        slot = _slot()
        if slot is not None and not self._connecting:  # a proxy's CONNECT is no byte of the request
            slot.sent = True
        return super().send(data)  # type: ignore[misc]

    def close(self) -> None:
        slot = _slot()
        if slot is None:
            super().close()  # type: ignore[misc]
        else:
            slot.closing(super().close)  # type: ignore[misc]

    def _publish(self) -> None:
        slot = _slot()
        if slot is not None:
            slot.publish(self.sock)


class _FreshPool:
    """Mixed into a urllib3 connection pool: a connection that has been idle for long is opened anew."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        conn = super()._get_conn(timeout)  # type: ignore[misc]
        idle_since = getattr(conn, "idle_since", None)
        if idle_since is not None and time.monotonic() - idle_since > REUSE_WITHIN:
            conn.close()
        return conn

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since = time.monotonic()
        super()._put_conn(conn)  # type: ignore[misc]


@functools.lru_cache(maxsize=32)
def _publishing(pool_class: Any) -> Any:
    connection = pool_class.ConnectionCls
    publishing = type(f"Publishing{connection.__name__}", (_PublishingConnection, connection), {})
    return type(f"Publishing{pool_class.__name__}", (_FreshPool, pool_class), {"ConnectionCls": publishing})


def _teach(manager: Any) -> None:
    classes = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {
        scheme: pool if issubclass(pool, _FreshPool) else _publishing(pool) for scheme, pool in classes.items()
    }


class Adapter(HTTPAdapter):
    """The adapter of our own sessions: publishes its sockets, and shares one TLS context. For one server."""

    def __init__(self, tls: Any = None, **kwargs: Any) -> None:
        self._tls = tls
        self._pool: Any = None
        super().__init__(**kwargs)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if self._tls is not None:
            kwargs["ssl_context"] = self._tls
        super().init_poolmanager(*args, **kwargs)
        _teach(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        if self._tls is not None:
            kwargs["ssl_context"] = self._tls
        manager = super().proxy_manager_for(proxy, **kwargs)
        _teach(manager)
        return manager

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        if self._tls is None:
            super().cert_verify(conn, url, verify, cert)

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        # One server, one way to it, one pool: requests would work out which one for each request.
        pool = self._pool
        if pool is None:
            pool = self._pool = super().get_connection_with_tls_context(request, verify, proxies=proxies, cert=cert)
        return pool

    def close(self) -> None:
        self._pool = None
        super().close()

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        # The context holds certificates and keys; naming them again would load them for every connection.
        return (host, {}) if self._tls is not None else (host, pool)


def instrument(session: requests.Session) -> bool:
    """Make the adapters of a caller's own session publish their sockets; True where all of them can."""
    wakeable = True
    for adapter in session.adapters.values():
        manager = getattr(adapter, "poolmanager", None)
        if not hasattr(manager, "pool_classes_by_scheme"):
            wakeable = False
            continue
        _teach(manager)
        if not isinstance(adapter, Adapter):
            _teach_proxies(adapter)
    return wakeable


def _teach_proxies(adapter: Any) -> None:
    original = adapter.proxy_manager_for
    if getattr(original, "publishes", False):
        return

    def proxy_manager_for(proxy: str, **kwargs: Any) -> Any:
        manager = original(proxy, **kwargs)
        if hasattr(manager, "pool_classes_by_scheme"):
            _teach(manager)
        return manager

    proxy_manager_for.publishes = True  # type: ignore[attr-defined]
    adapter.proxy_manager_for = proxy_manager_for


def close(session: requests.Session) -> None:
    """Close a session with its idle connections. Its own ``close()`` only forgets the pools, which then live as long as
    anybody holds an exception of theirs: a frame of its traceback holds the pool."""
    for adapter in session.adapters.values():
        managers = [getattr(adapter, "poolmanager", None), *getattr(adapter, "proxy_manager", {}).values()]
        for manager in managers:
            for pool in list(getattr(getattr(manager, "pools", None), "_container", {}).values()):
                pool.close()
    session.close()


def drop_inherited(session: requests.Session) -> None:
    """In a forked child: let go of idle connections of the parent, taking none of their locks."""
    for adapter in session.adapters.values():
        managers = [getattr(adapter, "poolmanager", None), *getattr(adapter, "proxy_manager", {}).values()]
        for manager in managers:
            container = getattr(getattr(manager, "pools", None), "_container", {})
            for pool in list(container.values()):
                idle = getattr(pool, "pool", None)
                if idle is None:
                    continue
                for conn in list(idle.queue):
                    if getattr(conn, "sock", None) is not None:
                        socket.socket.close(conn.sock)
                idle.queue.clear()
                # Another thread may have held it at the fork; the pool's finalizer would wait for that for ever.
                idle.mutex = threading.Lock()
                idle.not_empty = threading.Condition(idle.mutex)
                idle.not_full = threading.Condition(idle.mutex)
                idle.all_tasks_done = threading.Condition(idle.mutex)
