"""Making a connection: the addresses of a name, and the first of them that answers, all within the time of the request.

A request on a connection that is open already does not come here.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import urllib3.connection
from urllib3.exceptions import ConnectTimeoutError, LocationParseError, NameResolutionError, NewConnectionError
from urllib3.util import connection as urllib3_connecting
from urllib3.util.ssl_ import is_ipaddress

from parlant_sync._deadline import Deadline

if TYPE_CHECKING:
    from parlant_sync._http.connection import PublishingConnection, RunningRequest


def connect(connection: PublishingConnection, slot: RunningRequest, plain: Any) -> Any:
    """Promise: all addresses of a name share one time for connecting. urllib3 gives the whole of it to each."""
    deadline = slot.deadline
    if deadline is None or getattr(plain, "__func__", None) is not urllib3.connection.HTTPConnection._new_conn:
        return plain()  # SOCKS resolves by itself
    if getattr(urllib3_connecting.create_connection, "__globals__", None) is not vars(urllib3_connecting):
        return plain()  # the caller has replaced it, to find hosts in its own way
    timeout = connection.timeout
    until = Deadline(deadline.bound(timeout if isinstance(timeout, (int, float)) else None))
    addresses = _addresses(connection, slot, until)
    for number, (*kind, _, address) in enumerate(addresses, 1):
        left = until.for_socket()
        # An equal part for each that is left, so that a silent one leaves time for those behind it.
        share = None if left is None else max(left / (len(addresses) - number + 1), 0.001)
        try:
            sock = _connected(connection, slot, kind, address, share)
        except OSError as error:
            slot.check()
            if number == len(addresses) or until.expired():
                raise _not_connected(connection, error) from error
        else:
            sys.audit("http.client.connect", connection, connection.host, connection.port)  # as urllib3 does
            return sock
    raise _not_connected(connection, OSError("the name has no address"))


def _addresses(connection: PublishingConnection, slot: RunningRequest, until: Deadline) -> list[Any]:
    """Promise: a slow resolver costs no more than the time for connecting, and a stop does not wait for it."""
    name = connection._dns_host.strip("[]")
    family = urllib3_connecting.allowed_gai_family()  # callers replace it, to use IPv4 only
    try:
        if is_ipaddress(name):
            found = socket.getaddrinfo(name, connection.port, family, socket.SOCK_STREAM)
        else:
            found = _looked_up(name, connection.port, family, slot, until)
    except UnicodeError:
        raise LocationParseError(f"'{name}', label empty or too long") from None
    except OSError as error:
        slot.check()
        raise _not_connected(connection, error) from error
    return list(dict.fromkeys(found))


def _connected(
    connection: PublishingConnection, slot: RunningRequest, kind: list[Any], address: Any, timeout: float | None
) -> socket.socket:
    """Promise: a stop ends connecting, too (on Linux). urllib3 shows no socket before it is connected."""
    sock = socket.socket(*kind)
    try:
        for option in connection.socket_options:
            sock.setsockopt(*option)
        if connection.source_address:
            sock.bind(connection.source_address)
        sock.settimeout(timeout)
        slot.publish(sock)
        sock.connect(address)
    except BaseException:
        slot.unpublish(sock)
        sock.close()
        raise
    return sock


def _not_connected(connection: PublishingConnection, error: OSError) -> Exception:
    """urllib3's error for it, by which requests and ``error_mapping.py`` know that nothing was sent."""
    me: Any = connection
    if isinstance(error, socket.gaierror):
        return NameResolutionError(connection.host, me, error)
    if isinstance(error, TimeoutError):
        return ConnectTimeoutError(connection, f"Connecting to {connection.host} took too long.")
    return NewConnectionError(me, error.strerror or str(error))


# -- names

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


def _looked_up(name: str, port: int, family: Any, slot: RunningRequest, until: Deadline) -> list[Any]:
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
