"""Slow names and silent addresses: neither a deadline nor ``close()`` waits for them."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.waiting import wait_until

from parlant_sync import Client, Session, SessionClosed, TransportError
from parlant_sync.testing import FakeServer

LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere shutdown() does not end a connect()")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        fake.agent("quick").echoes()
        yield fake


class Resolver:
    """Knows server.test. Its answers wait for ``open``, and are immediate until that is cleared."""

    def __init__(self, server: FakeServer) -> None:
        self.open = threading.Event()
        self.open.set()
        self.asked = 0
        self.port = int(server.base_url.rpartition(":")[2])  # where server.test is
        self.url = f"http://server.test:{self.port}"
        self._resolve = socket.getaddrinfo

    def __call__(self, host: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "server.test":
            return self._resolve(host, *args, **kwargs)
        self.asked += 1
        self.open.wait(20)
        return [(*each[:4], ("127.0.0.1", self.port)) for each in self._resolve("127.0.0.1", *args, **kwargs)]


@pytest.fixture
def resolver(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    made = Resolver(server)
    monkeypatch.setattr(socket, "getaddrinfo", made)
    yield made
    made.open.set()


@pytest.mark.parametrize("timeout", [0.6, 1.0])
def test_a_send_ends_with_its_time_though_the_name_is_not_known_yet(
    timeout: float, server: FakeServer, resolver: Resolver
) -> None:
    with Client(resolver.url, request_timeout=30) as client:
        session = client.create_session("quick")
        server.wait_polls(1)
        client._transport.reconnect()
        resolver.open.clear()
        started = time.monotonic()
        with pytest.raises(TransportError, match="no connection in time"):  # and not DeliveryUncertain
            session.send("nothing of it", timeout=timeout)
        assert time.monotonic() - started < timeout + 1.0
        resolver.open.set()
        assert session.send("and on it goes", timeout=20).text == "echo: and on it goes"
    assert not [request for request in server.requests if b"nothing of it" in request.body]


def test_the_time_for_connecting_holds(server: FakeServer, resolver: Resolver) -> None:
    resolver.open.clear()
    with Client(resolver.url, connect_timeout=0.3, request_timeout=30) as client:
        started = time.monotonic()
        with pytest.raises(TransportError, match="no connection in time"):
            client._transport.request("GET", "/agents")
        assert time.monotonic() - started < 2


def test_without_a_thread_the_name_is_looked_up_all_the_same(
    server: FakeServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with Client(resolver.url) as client, monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert [agent.id for agent in client.agents()] == ["quick"]
    assert resolver.asked == 1


@contextlib.contextmanager
def silent() -> Iterator[int]:
    """A port whose queue is full: connecting to it goes on until its time is over."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        yield full.getsockname()[1]


def _closed_while(client: Client, session: Session, under_way: Callable[[], bool]) -> None:
    """A call and a poll are under way; ``close()`` ends both at once."""
    raised: list[BaseException] = []

    def call() -> None:
        try:
            client.agents()
        except Exception as error:
            raised.append(error)

    def read() -> None:
        for _ in session.iter_events():
            pass

    threads = [threading.Thread(target=call, daemon=True), threading.Thread(target=read, daemon=True)]
    for thread in threads:
        thread.start()
    wait_until(under_way)
    started = time.monotonic()
    client.close(timeout=10)
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - started < 2
    assert [type(error) for error in raised] == [SessionClosed]


def test_close_does_not_wait_for_a_name(server: FakeServer, resolver: Resolver) -> None:
    client = Client(resolver.url, connect_timeout=30, request_timeout=60)
    session = client.session(server.create_session("quick"), since="beginning")
    client._transport.reconnect()
    resolver.open.clear()
    before = resolver.asked
    _closed_while(client, session, lambda: resolver.asked - before == 2)


@LINUX_ONLY
def test_close_does_not_wait_for_an_address_that_is_silent(server: FakeServer, resolver: Resolver) -> None:
    client = Client(resolver.url, connect_timeout=30, request_timeout=60)
    session = client.session(server.create_session("quick"), since="beginning")
    client._transport.reconnect()
    with silent() as resolver.port:
        before = _connecting(resolver.port)
        _closed_while(client, session, lambda: _connecting(resolver.port) - before == 2)


def _connecting(port: int) -> int:
    """How many sockets have asked for a connection to this port and got no answer."""
    with open("/proc/net/tcp") as table:
        lines = [line.split() for line in table]
    return sum(line[3] == "02" and line[2].endswith(f":{port:04X}") for line in lines)
