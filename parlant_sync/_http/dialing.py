"""Connecting within one time, however many addresses a name has: urllib3 gives the whole of it to each of them."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

import urllib3.connection
from urllib3.exceptions import ConnectTimeoutError, LocationParseError, NameResolutionError, NewConnectionError
from urllib3.util import connection

if TYPE_CHECKING:
    from parlant_sync._deadline import Deadline
    from parlant_sync._http.interrupt import RunningRequest

_NEW_CONN = urllib3.connection.HTTPConnection._new_conn
_CREATE = connection.create_connection
# No wait is shorter: 0 would mean another thing to a socket.
_LEAST = 0.001


def is_usual(new_conn: Any) -> bool:
    """Whether urllib3 would connect in its own way: no SOCKS, and nobody has put a function of his own in its place."""
    return getattr(new_conn, "__func__", None) is _NEW_CONN and connection.create_connection is _CREATE


def dial(conn: Any, slot: RunningRequest, deadline: Deadline) -> socket.socket:
    """A socket for ``conn``, as ``HTTPConnection._new_conn`` makes it; what is left of the time is its timeout.

    It is published from before it connects, so that a stop ends that as well.
    """
    try:
        sock = _walk(conn, slot, deadline)
    except OSError as error:
        slot.check()  # first: of an error with a number urllib3 may make something else
        if isinstance(error, socket.gaierror):
            raise NameResolutionError(conn.host, conn, error) from error
        if isinstance(error, TimeoutError):
            raise ConnectTimeoutError(conn, f"Connection to {conn.host} timed out.") from error
        raise NewConnectionError(conn, f"Failed to establish a new connection: {error}") from error
    sys.audit("http.client.connect", conn, conn.host, conn.port)
    return sock


def _walk(conn: Any, slot: RunningRequest, deadline: Deadline) -> socket.socket:
    """The first address that answers. Raises the last one's ``OSError``."""
    host, family = conn._dns_host.strip("[]"), connection.allowed_gai_family()
    try:
        found = socket.getaddrinfo(host, conn.port, family, socket.SOCK_STREAM)
    except UnicodeError:
        raise LocationParseError(f"'{host}', label empty or too long") from None
    failed = OSError("the name has no address")
    try:
        for number, each in enumerate(found):
            if number and deadline.expired():
                raise TimeoutError("no time for the addresses that are left")
            try:
                # An equal part for each that is left: one that is silent leaves time for those behind it.
                return _connected(conn, slot, each, deadline, len(found) - number)
            except OSError as error:
                failed = error
                if slot.interrupted:
                    break
        raise failed
    finally:
        del failed  # its traceback holds this frame


def _connected(conn: Any, slot: RunningRequest, address: Any, deadline: Deadline, parts: int) -> socket.socket:
    family, kind, protocol, _, place = address
    sock = socket.socket(family, kind, protocol)
    try:
        for option in conn.socket_options or ():
            sock.setsockopt(*option)
        sock.settimeout(_part(deadline, parts))
        if conn.source_address:
            sock.bind(conn.source_address)
        slot.publish(sock)
        sock.connect(place)
        slot.publish(sock)  # once more: where it was shut down meanwhile, connect() may have taken that for success
        sock.settimeout(_part(deadline, 1))  # for the handshake
    except BaseException:
        slot.unpublish(sock)
        sock.close()
        raise
    return sock


def _part(deadline: Deadline, parts: int) -> float | None:
    left = deadline.for_socket()
    return None if left is None else max(left / parts, _LEAST)
