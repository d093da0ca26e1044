"""Slow names and silent addresses: neither a deadline nor ``close()`` waits for them."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import urllib3.util.connection
from support.waiting import Background, wait_until

from parlant_sync import Client, Session, SessionClosed, TransportError
from parlant_sync._http import connecting
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
    wait_until(lambda: not _helpers())


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


def _helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "parlant-sync-resolve"]


def test_while_a_resolver_is_silent_requests_share_one_thread_and_its_answer(
    server: FakeServer, resolver: Resolver
) -> None:
    """Sessions may be many, and each tries again and again."""
    resolver.open.clear()
    with Client(resolver.url, connect_timeout=0.05, request_timeout=0.05) as hasty:
        for _ in range(5):
            with pytest.raises(TransportError, match="no connection in time"):
                hasty.agents()
    assert resolver.asked == 1
    (look_up,) = connecting._under_way.values()
    assert look_up.waiting == []  # who has given up has left no descriptor there
    with Client(resolver.url, connect_timeout=10) as patient, ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(patient.agents) for _ in range(4)]
        wait_until(lambda: len(look_up.waiting) == 4)
        assert len(_helpers()) == 1
        resolver.open.set()
        assert [[agent.id for agent in answer.result(10)] for answer in answers] == [["quick"]] * 4
    assert resolver.asked == 1
    wait_until(lambda: not connecting._under_way)


def test_a_name_is_asked_for_again_if_its_look_up_is_old(
    server: FakeServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resolver may be back, and the old look-up never end."""
    monkeypatch.setattr(connecting, "_SHARED_FOR", 0)
    resolver.open.clear()
    with Client(resolver.url, connect_timeout=0.05, request_timeout=0.05) as client:
        for _ in range(2):
            with pytest.raises(TransportError, match="no connection in time"):
                client.agents()
    assert resolver.asked == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no fork")
def test_a_forked_process_does_not_wait_for_a_look_up_of_its_parent(
    server: FakeServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver.open.clear()
    with Client(resolver.url, connect_timeout=0.05, request_timeout=0.05) as client:
        with pytest.raises(TransportError):
            client.agents()
    monkeypatch.setattr(os, "getpid", lambda: -1)  # a child, which has a copy of all but the thread
    with Client(resolver.url, connect_timeout=0.05, request_timeout=0.05) as client:
        with pytest.raises(TransportError):
            client.agents()
    assert resolver.asked == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGPIPE")
def test_a_name_that_comes_too_late_does_not_end_a_program_that_sigpipe_ends(resolver: Resolver) -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGPIPE, lambda number, frame: came.append(number))
    try:
        resolver.open.clear()
        with Client(resolver.url, connect_timeout=0.1, request_timeout=0.1) as client:
            with pytest.raises(TransportError):
                client.agents()
        late = _helpers()
        resolver.open.set()
        for thread in late:
            thread.join(10)
    finally:
        signal.signal(signal.SIGPIPE, before)
    assert late
    assert came == []


def test_hosts_are_found_in_the_way_that_the_caller_has_given_to_urllib3(
    server: FakeServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A common recipe, in place of a name server."""
    connect, asked = urllib3.util.connection.create_connection, []

    def create_connection(address: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(address)
        return connect(("127.0.0.1", address[1]), *args, **kwargs)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", create_connection)
    with Client(f"http://nowhere.invalid:{resolver.port}") as client:
        assert [agent.id for agent in client.agents()] == ["quick"]
    assert asked == [("nowhere.invalid", resolver.port)]


def test_only_ipv4_is_asked_for_if_the_caller_has_told_urllib3_so(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one, for networks whose IPv6 leads nowhere."""
    families, resolve = [], socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, family: int = 0, *args: Any, **kwargs: Any) -> Any:
        families.append(family)
        return resolve(host, port, family, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(urllib3.util.connection, "allowed_gai_family", lambda: socket.AF_INET)
    with Client(server.base_url.replace("127.0.0.1", "localhost")) as client:
        assert [agent.id for agent in client.agents()] == ["quick"]
    assert set(families) == {socket.AF_INET}


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux has this limit")
@pytest.mark.parametrize("known", [True, False], ids=["known", "refused by the system"])
def test_only_polls_limit_how_long_the_peer_takes_the_request(
    known: bool, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A living server may take a long message slowly, and some systems (WSL 1) refuse the limit."""
    limited: list[tuple[str, int]] = []

    class Socket(socket.socket):
        def setsockopt(self, *args: Any) -> None:
            if args[:2] == (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT):
                self.getpeername()  # raises before it is connected: connecting has a time of its own
                limited.append((threading.current_thread().name, args[2]))
                if not known:
                    raise OSError(errno.ENOPROTOOPT, "Protocol not available")
            super().setsockopt(*args)

    monkeypatch.setattr(socket, "socket", Socket)
    with Client(server.base_url) as client:
        session = client.create_session("quick")
        assert session.send("hello", timeout=20).text == "echo: hello"
        assert set(limited) == {(f"parlant-sync-poll-{session.id}", 30_000)}


def test_a_look_up_whose_start_was_interrupted_holds_up_nobody(
    server: FakeServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    with Client(resolver.url, request_timeout=2) as client:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            with pytest.raises(KeyboardInterrupt):
                client.agents()
        assert [agent.id for agent in client.agents()] == ["quick"]


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


def test_many_silent_addresses_share_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        found = resolve("127.0.0.1" if host == "many.test" else host, *args, **kwargs)
        return [(*found[0][:4], (f"127.0.0.{n}", port)) for n in range(1, 9)] if host == "many.test" else found

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with silent() as port, Client(f"http://many.test:{port}", connect_timeout=0.8, request_timeout=5) as client:
        started = time.monotonic()
        with pytest.raises(TransportError):
            client._transport.request("GET", "/x")
        assert time.monotonic() - started < 3  # and not 8 times 0.8


def _closed_while(client: Client, session: Session, under_way: Callable[[], bool]) -> None:
    """A call and a poll are under way; ``close()`` ends both at once."""
    calling, reading = Background(client.agents), Background(lambda: list(session.iter_events()))
    wait_until(under_way)
    started = time.monotonic()
    client.close(timeout=10)
    assert isinstance(calling.error(), SessionClosed)
    assert reading.result() == []
    assert time.monotonic() - started < 2


def test_close_does_not_wait_for_a_name(
    server: FakeServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "_SHARED_FOR", 0)  # so that each of them asks
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
