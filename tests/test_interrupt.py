"""Waking a request, over real sockets; and what a slot knows of it."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator

import pytest
import requests
from requests.adapters import HTTPAdapter

from parlant_sync import interrupt
from parlant_sync.interrupt import Adapter, Interrupted, Slot


class Listener:
    """Accepts, reads the request, answers what it is told, or nothing."""

    def __init__(self, answer: bytes = b"") -> None:
        self.answer = answer
        self.asked = threading.Semaphore(0)
        self.connections: list[socket.socket] = []
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}/"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                conn, _ = self._sock.accept()
            except OSError:
                return
            self.connections.append(conn)
            self._threads.append(threading.Thread(target=self._serve, args=(conn,)))
            self._threads[-1].start()

    def _serve(self, conn: socket.socket) -> None:
        try:
            while conn.recv(65536):
                self.asked.release()
                if self.answer:
                    conn.sendall(self.answer)
        except OSError:
            pass

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._threads[0].join(5)  # it may be at a connection it has just accepted
        for conn in self.connections:
            try:
                conn.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            conn.close()
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def silent() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture
def answering() -> Iterator[Listener]:
    listener = Listener(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    yield listener
    listener.close()


def ours() -> requests.Session:
    session = requests.Session()
    session.mount("http://", Adapter())
    return session


def callers_own() -> requests.Session:
    session = requests.Session()
    session.mount("http://", HTTPAdapter())
    assert interrupt.instrument(session)
    assert interrupt.instrument(session)  # twice does no harm
    return session


@pytest.mark.parametrize("make", [ours, callers_own])
@pytest.mark.parametrize("how", ["kick", "stop", "stop_without_lock"])
def test_a_waiting_request_is_woken(silent: Listener, make: type, how: str) -> None:
    slot, session = Slot(), make()
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            with slot:
                session.get(silent.url, timeout=60)
        except requests.RequestException as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert silent.asked.acquire(timeout=5)
    started = time.monotonic()
    getattr(slot, how)()
    thread.join(5)
    assert not thread.is_alive()
    assert time.monotonic() - started < 5
    assert failed
    assert slot.interrupted
    assert slot.sent
    session.close()


def test_a_stopped_slot_asks_nothing(silent: Listener) -> None:
    slot, session = Slot(), ours()
    slot.stop()
    with slot, pytest.raises(requests.ConnectionError) as caught:
        session.get(silent.url, timeout=5)
    assert "cut short" in str(caught.value)
    assert not slot.sent
    assert not silent.asked.acquire(blocking=False)
    session.close()


def test_a_kick_is_for_one_request(answering: Listener) -> None:
    slot, session = Slot(), ours()
    slot.kick()
    slot.rearm()
    with slot:
        assert session.get(answering.url, timeout=5).text == "ok"
    slot.kick()  # nothing runs: nothing happens
    session.close()


def test_a_refused_connection_sent_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    slot, session = Slot(), ours()
    with slot, pytest.raises(requests.ConnectionError):
        session.get(f"http://127.0.0.1:{port}/", timeout=5)
    assert not slot.sent
    session.close()


def test_an_idle_connection_is_not_used_again(answering: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ours()
    for _ in range(3):
        session.get(answering.url, timeout=5)
    assert len(answering.connections) == 1
    monkeypatch.setattr(interrupt, "REUSE_WITHIN", -1.0)
    session.get(answering.url, timeout=5)
    assert len(answering.connections) == 2
    session.close()


def test_keepalive_is_set(answering: Listener) -> None:
    slot, session = Slot(), ours()
    seen: list[int] = []
    publish = Slot.publish

    class Watching(Slot):
        __slots__ = ()

        def publish(self, sock: socket.socket | None) -> None:
            if sock is not None:
                seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
            publish(self, sock)

    with Watching():
        session.get(answering.url, timeout=5)
    assert seen
    assert all(seen)
    assert slot.sent is False
    session.close()


def test_a_request_inside_a_request(answering: Listener) -> None:
    outer, inner, session = Slot(), Slot(), ours()
    with outer:
        with inner:
            session.get(answering.url, timeout=5)
        assert not outer.sent
        session.get(answering.url, timeout=5)
        assert outer.sent
    session.close()


def test_adapters_of_another_kind_cannot_be_woken() -> None:
    class Other(requests.adapters.BaseAdapter):
        def send(self, *args: object, **kwargs: object) -> requests.Response:
            raise Interrupted

        def close(self) -> None:
            pass

    session = requests.Session()
    session.mount("http://", Other())
    assert interrupt.instrument(session) is False
    session.close()


def test_one_tls_context_for_all() -> None:
    context = ssl.create_default_context()
    adapter = Adapter(context)
    request = requests.Request("GET", "https://h/").prepare()
    for pool in (
        adapter.get_connection_with_tls_context(request, True),
        adapter.get_connection_with_tls_context(request, True, proxies={"https": "http://proxy:1"}),
    ):
        connection = pool._new_conn()
        assert connection.ssl_context is context
        assert connection.ca_certs is None
    adapter.close()
