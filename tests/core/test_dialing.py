"""Connecting: one time for all addresses of a name, and a stop that ends it."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from urllib3 import exceptions
from urllib3.util import connection

from parlant_sync import Client, SessionClosed, TransportError
from parlant_sync._deadline import Deadline
from parlant_sync._http import dialing
from parlant_sync._http.interrupt import RunningRequest


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Silent:
    """A socket whose connection nobody answers: the whole of its time passes."""

    def __init__(self, clock: Clock, times: list[float]) -> None:
        self._clock = clock
        self._times = times

    def settimeout(self, value: float) -> None:
        self._timeout = value

    def connect(self, _: object) -> None:
        self._times.append(self._timeout)
        self._clock.now += self._timeout
        raise TimeoutError("timed out")

    def close(self) -> None: ...


def connection_to(port: int, **options: Any) -> Any:
    return urllib3.HTTPSConnectionPool.ConnectionCls("many.test", port, **options)


def addresses(monkeypatch: pytest.MonkeyPatch, *found: tuple[str, int], make: Any = socket.socket) -> None:
    """What the name stands for, as dialing alone sees it, and how sockets are made there."""
    there = SimpleNamespace(**vars(socket))
    there.getaddrinfo = lambda *_: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in found]
    there.socket = make
    monkeypatch.setattr(dialing, "socket", there)


def test_all_addresses_share_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, times = Clock(), list[float]()
    addresses(monkeypatch, *[("192.0.2.1", 1)] * 8, make=lambda *_: Silent(clock, times))
    with RunningRequest() as slot, pytest.raises(exceptions.ConnectTimeoutError):
        dialing.dial(connection_to(1, socket_options=()), slot, Deadline(4, clock=clock))
    assert times == pytest.approx([0.5] * 8)


def test_a_silent_address_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, times = Clock(), list[float]()
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = iter([lambda *_: Silent(clock, times), socket.socket])
        addresses(monkeypatch, ("192.0.2.1", 1), server.getsockname(), make=lambda *what: next(made)(*what))
        with RunningRequest() as slot:
            sock = dialing.dial(connection_to(1, socket_options=()), slot, Deadline(4, clock=clock))
            assert times == [2.0]
            assert sock.gettimeout() == 2.0  # the handshake has what is left
            slot.unpublish(sock)
            sock.close()


def test_where_it_comes_from_and_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, RunningRequest() as slot:
        addresses(monkeypatch, server.getsockname())
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
        conn = connection_to(1, socket_options=options, source_address=("127.0.0.2", 0))
        sock = dialing.dial(conn, slot, Deadline(4))
        assert sock.getsockname()[0] == "127.0.0.2"
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        slot.unpublish(sock)
        sock.close()


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (socket.gaierror(-2, "unknown"), exceptions.NameResolutionError),
        (UnicodeError("label"), exceptions.LocationParseError),
        (OSError(24, "Too many open files"), exceptions.NewConnectionError),
        (None, exceptions.NewConnectionError),
    ],
    ids=["unknown", "label", "descriptors", "no-address"],
)
def test_it_fails_as_urllib3_does(failure: Exception | None, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object) -> list[Any]:
        if failure is not None:
            raise failure
        return []

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with RunningRequest() as slot, pytest.raises(kind):
        dialing.dial(connection_to(1), slot, Deadline(4))


def test_who_connects_in_his_own_way_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = connection_to(1)._new_conn
    assert dialing.is_usual(usual)
    assert not dialing.is_usual(lambda: usual())
    with monkeypatch.context() as patch:
        patch.setattr(connection, "create_connection", lambda *_, **__: None)
        assert not dialing.is_usual(usual)
    monkeypatch.setattr(urllib3.connection.HTTPConnection, "_new_conn", lambda self: None)
    assert not dialing.is_usual(connection_to(1)._new_conn)


# -- stops


def wait_for(what: Any) -> None:
    deadline = time.monotonic() + 5
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def unanswered() -> Iterator[tuple[str, int]]:
    """A port whose queue is full: it answers no further connection, and refuses none."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
        yield server.getsockname()
        for sock in waiting:
            sock.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only here is it known that a full queue is silent")
def test_a_stop_ends_the_connecting(unanswered: tuple[str, int]) -> None:
    slot, failed = RunningRequest(), list[BaseException]()

    def ask() -> None:
        try:
            client._transport.request("GET", "/x", slot=slot)
        except Exception as error:
            failed.append(error)

    def connecting() -> bool:
        return slot._sock is not None and slot._sock.getsockname()[1] != 0

    with Client(f"http://127.0.0.1:{unanswered[1]}", connect_timeout=60, request_timeout=60) as client:
        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(connecting)
        slot.stop()
        thread.join(5)
        assert not thread.is_alive()
        assert [str(error) for error in failed] == ["the request was cut short by this process"]
        assert not slot.sent


@pytest.mark.parametrize("way", ["direct", "tunnel"])
def test_a_stop_ends_a_handshake_that_hangs(way: str) -> None:
    """Its socket is another than the one that was connected: ``wrap_socket`` took the descriptor over."""
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            client.agents()
        except (SessionClosed, TransportError) as error:
            raised.append(error)

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"127.0.0.1:{deaf.getsockname()[1]}"
        proxies = {"https": f"http://{url}"} if way == "tunnel" else {"no_proxy": "*"}
        client = Client(f"https://{url if way == 'direct' else 'x.test'}", proxies=proxies, connect_timeout=60)
        thread = threading.Thread(target=ask)
        thread.start()
        conn, _ = deaf.accept()
        if way == "tunnel":
            assert conn.recv(65536).startswith(b"CONNECT")
            conn.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        assert conn.recv(1) == b"\x16"  # a handshake has begun
        client.close()
        thread.join(5)
        assert not thread.is_alive()
        assert [type(error) for error in raised] == [SessionClosed]
        conn.close()


def test_nothing_but_tls_sockets_of_ours() -> None:
    """gevent and the like may have put theirs in the place of the standard library's, after ours was made."""
    from parlant_sync import _settings

    class Context:
        sslsocket_class = SimpleNamespace

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("urllib3.util.create_urllib3_context", lambda: Context())
        context: Any = _settings.Settings._trusting_context(SimpleNamespace(verify=False))  # type: ignore[arg-type]
    assert context.sslsocket_class is SimpleNamespace
