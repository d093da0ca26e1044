"""Waking a request, over real sockets; and what a slot knows of it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
import requests
from requests.adapters import HTTPAdapter
from support.raw_api import in_background
from support.raw_server import RawServer, answer
from support.waiting import wait_until

from parlant_sync import SessionClosed
from parlant_sync._deadline import Deadline
from parlant_sync._http import adapter, callers_session
from parlant_sync._http.adapter import Adapter
from parlant_sync._http.connection import RunningRequest, RunningRequests, real


@pytest.fixture
def silent() -> Iterator[RawServer]:
    """Takes requests, and never answers."""
    with RawServer(lambda *_: b"") as server:
        yield server


@pytest.fixture
def answering() -> Iterator[RawServer]:
    with RawServer(lambda *_: answer(b"ok")) as server:
        yield server


def ours() -> requests.Session:
    session = requests.Session()
    session.mount("http://", Adapter())
    return session


def callers_own() -> requests.Session:
    session = requests.Session()
    session.mount("http://", HTTPAdapter())
    assert callers_session.instrument(session, "http://h")
    assert callers_session.instrument(session, "http://h")  # twice does no harm
    return session


@pytest.mark.parametrize("make", [ours, callers_own])
@pytest.mark.parametrize("how", ["kick", "stop", "stop_without_lock"])
def test_a_waiting_request_is_woken(silent: RawServer, make: type, how: str) -> None:
    slot, session = RunningRequest(), make()

    def ask() -> None:
        with slot:
            session.get(silent.base_url, timeout=60)

    asking = in_background(ask)
    wait_until(lambda: silent.requests)
    getattr(slot, how)()
    assert isinstance(asking.error(5), requests.RequestException)
    assert slot.interrupted
    assert slot.sent
    session.close()


def test_a_stopped_slot_asks_nothing(silent: RawServer) -> None:
    slot, session = RunningRequest(), ours()
    slot.stop()
    with slot, pytest.raises(requests.ConnectionError) as caught:
        session.get(silent.base_url, timeout=5)
    assert "cut short" in str(caught.value)
    assert not slot.sent
    assert silent.requests == []
    session.close()


def test_a_kick_is_for_one_request(answering: RawServer) -> None:
    slot, session = RunningRequest(), ours()
    slot.kick()
    slot.rearm()
    with slot:
        assert session.get(answering.base_url, timeout=5).text == "ok"
    slot.kick()  # nothing runs: nothing happens
    session.close()


def test_a_refused_connection_sent_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    slot, session = RunningRequest(), ours()
    with slot, pytest.raises(requests.ConnectionError):
        session.get(f"http://127.0.0.1:{port}/", timeout=5)
    assert not slot.sent
    session.close()


def test_an_idle_connection_is_not_used_again(answering: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    session = ours()
    for _ in range(3):
        session.get(answering.base_url, timeout=5)
    assert len(answering.connections) == 1
    monkeypatch.setattr(adapter, "REUSE_WITHIN", -1.0)
    session.get(answering.base_url, timeout=5)
    assert len(answering.connections) == 2
    session.close()


def test_a_request_inside_a_request(answering: RawServer) -> None:
    outer, inner, session = RunningRequest(), RunningRequest(), ours()
    with outer:
        with inner:
            session.get(answering.base_url, timeout=5)
        assert not outer.sent
        session.get(answering.base_url, timeout=5)
        assert outer.sent
    session.close()


def test_a_body_is_woken_whose_connection_is_closed_already() -> None:
    """After ``Connection: close`` the connection lets go of its socket while the body is still being read."""
    half = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 9\r\n\r\nok"
    slot, session, headed = RunningRequest(), ours(), threading.Event()

    def ask() -> None:
        with slot:
            slot.deadline = Deadline(60)
            with session.get(server.base_url, timeout=60, stream=True) as response:
                headed.set()
                response.content  # noqa: B018

    with RawServer(lambda *_: half) as server:
        asking = in_background(ask)
        assert headed.wait(5)
        slot.stop()
        assert isinstance(asking.error(5), requests.RequestException)
        session.close()


def test_nothing_is_held_while_a_connection_is_closed(answering: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the finalizers of users, which may wait for whoever stops this slot."""
    slot, session = RunningRequest(), ours()
    close = socket.socket.close
    free: list[bool] = []

    def watching(self: socket.socket) -> None:
        thread = threading.Thread(
            target=lambda: free.append(slot._lock.acquire(timeout=5) and not slot._lock.release())
        )
        thread.start()
        thread.join()
        close(self)

    with slot:
        session.get(answering.base_url, timeout=5)
        monkeypatch.setattr(socket.socket, "close", watching)
        monkeypatch.setattr(adapter, "REUSE_WITHIN", -1.0)
        session.get(answering.base_url, timeout=5)
    monkeypatch.undo()
    assert free
    assert all(free)
    session.close()


def test_a_signal_handler_may_stop_the_request_it_came_into() -> None:
    """It runs in the same thread, wherever that is: inside of a publish as well."""
    slot = RunningRequest()
    with slot._lock:
        slot.stop()
        slot.kick()
    assert slot.interrupted


def test_tls_inside_of_tls_is_reached() -> None:
    """urllib3's SSLTransport is no socket; it holds one."""
    left, right = socket.socketpair()

    class Transport:
        socket = left

    class Nested:
        socket = Transport()

    slot = RunningRequest()
    slot.publish(Nested())
    assert real(Nested()) is left
    slot.stop()
    assert right.recv(1) == b""  # shut down
    slot.drop_inherited()
    assert left.fileno() == -1
    right.close()


def test_what_a_pool_of_ours_took_is_known(answering: RawServer) -> None:
    slot, session = RunningRequest(), ours()
    with slot:
        assert (slot.seen, slot.sent) == (False, False)
        session.get(answering.base_url, timeout=5)
        assert (slot.seen, slot.sent) == (True, True)
    with slot:
        assert (slot.seen, slot.sent) == (False, False)
    session.close()


# -- RunningRequests


def test_running_requests_are_ended_together(silent: RawServer) -> None:
    calls, sessions = RunningRequests(), [ours() for _ in range(3)]

    def ask(session: requests.Session) -> None:
        slot = RunningRequest()
        calls.enter(slot)
        with slot:
            session.get(silent.base_url, timeout=60)

    asking = [in_background(ask, session) for session in sessions]
    wait_until(lambda: len(silent.requests) == 3)
    calls.stop(SessionClosed("why"))
    assert all(isinstance(each.error(5), requests.RequestException) for each in asking)
    with pytest.raises(SessionClosed, match="why"):
        calls.enter(RunningRequest())
    for session in sessions:
        session.close()


def test_the_first_cause_of_an_end_stays() -> None:
    calls = RunningRequests()
    calls.stop(SessionClosed("first"))
    calls.stop(SessionClosed("second"))
    with pytest.raises(SessionClosed, match="first") as one:
        calls.check()
    with pytest.raises(SessionClosed, match="first") as other:
        calls.check()
    assert one.value is not other.value  # each waiter has its own traceback


class Racing(set[RunningRequest]):
    """Somebody ends the calls just before a request is among them."""

    def __init__(self, calls: RunningRequests) -> None:
        self._calls = calls

    def add(self, slot: RunningRequest) -> None:
        self._calls.stop(SessionClosed("why"))
        super().add(slot)


def test_a_request_begun_while_all_are_ended_is_not_sent() -> None:
    """They were stopped without it, so it has to look itself."""
    calls = RunningRequests()
    calls.running = Racing(calls)
    with pytest.raises(SessionClosed, match="why"):
        calls.enter(RunningRequest())
