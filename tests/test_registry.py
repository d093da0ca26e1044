"""One id, one object, one poller; and their common end."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from parlant_sync import Client, errors
from parlant_sync.testing import FakeServer

pytestmark = pytest.mark.usefixtures("server")


@pytest.fixture
def server() -> Any:
    with FakeServer() as server:
        server.agent("a")
        yield server


def pollers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("parlant-sync-poll-")]


def wait_until(true: Callable[[], bool], what: str, timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, f"not in {timeout} s: {what}"
        threading.Event().wait(0.005)


def together(count: int, call: Callable[[], Any]) -> list[Any]:
    """``call`` in so many threads at the same moment; results, or what was raised."""
    barrier = threading.Barrier(count)

    def one(_: int) -> Any:
        barrier.wait()
        try:
            return call()
        except errors.ParlantSyncError as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_a_hundred_openers_share_one_attach(server: FakeServer) -> None:
    session_id = server.create_session("a")
    with Client(server.base_url) as client:
        opened = together(100, lambda: client.session(session_id))
        assert len({id(s) for s in opened}) == 1
        assert len(pollers()) == 1
        reads = [r for r in server.requests if r.path == f"/sessions/{session_id}"]
        assert len(reads) == 1
        assert list(client.sessions) == [session_id]


def test_they_share_its_failure_too(server: FakeServer) -> None:
    hold = server.hold_next("GET /sessions/nowhere")
    with Client(server.base_url) as client:
        threading.Thread(target=lambda: (server.wait_requests("GET /sessions/nowhere"), hold.release())).start()
        results = together(50, lambda: client.session("nowhere"))
        assert {type(r) for r in results} == {errors.NotFoundError}
        assert len({id(r) for r in results}) == 50  # each has an instance, and a traceback, of its own
        assert not client.sessions
        assert pollers() == []


def test_since_that_differs_is_refused(server: FakeServer) -> None:
    session_id = server.create_session("a")
    with Client(server.base_url) as client:
        session = client.session(session_id, since=0)
        assert client.session(session_id) is session
        assert client.session(session_id, since="beginning") is session
        for other in ("latest", 3):
            with pytest.raises(errors.ConcurrencyError, match="iter_events"):
                client.session(session_id, since=other)
        for bad in (-1, "soon", 1.5, True):
            with pytest.raises(errors.ConfigurationError):
                client.session(session_id, since=bad)  # type: ignore[arg-type]


def test_the_last_one_out_of_with_closes(server: FakeServer) -> None:
    with Client(server.base_url) as client:
        session = client.create_session("a")
        with session, client.session(session.id) as same:
            assert same is session
            with session:
                pass
            assert not session.closed
        assert session.closed
        assert session.id not in client.sessions


def test_close_is_at_once_and_for_everybody(server: FakeServer) -> None:
    client = Client(server.base_url)
    session = client.create_session("a")
    server.wait_polls(1)
    server.agent("a").ignores()
    reader = session.iter_events()
    with ThreadPoolExecutor(3) as pool:
        sending = pool.submit(session.send, "hello")
        reading = pool.submit(list, reader)
        second = pool.submit(session.send, "waits for the first")
        server.wait_events(session.id, 1)
        started = time.monotonic()
        session.close()
        for waiting in (sending, second):
            with pytest.raises(errors.SessionClosed, match=session.id):
                waiting.result(5)
        assert [e.kind for e in reading.result(5)] in ([], ["message"])
        assert time.monotonic() - started < 5
    session.close()
    with pytest.raises(errors.SessionClosed):
        session.send("x")
    client.close()
    client.close()
    for call in (client.agents, lambda: client.session("x"), lambda: client.create_session("a")):
        with pytest.raises(errors.SessionClosed):
            call()


def test_two_hundred_sessions_end_together(server: FakeServer) -> None:
    client = Client(server.base_url)
    sessions = [client.create_session("a") for _ in range(200)]
    server.wait_polls(200, timeout=30)
    assert client.stats().sessions == 200
    started = time.monotonic()
    client.close()
    assert time.monotonic() - started < 5
    assert pollers() == []
    assert all(s.closed for s in sessions)


def test_an_opener_that_comes_too_late(server: FakeServer) -> None:
    """The client is closed while an attach is under way."""
    session_id = server.create_session("a")
    client = Client(server.base_url)
    hold = server.hold_next(f"GET /sessions/{session_id}")
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(client.session, session_id)
        server.wait_requests(f"GET /sessions/{session_id}")
        client.close()
        hold.release()
        with pytest.raises(errors.SessionClosed):
            opening.result(10)
    assert pollers() == []


def test_parked_and_used_again_nothing_missed(server: FakeServer) -> None:
    with Client(server.base_url, poll_wait=1, idle_timeout=0.2) as client:
        session = client.create_session("a")
        wait_until(lambda: session.health.state == "parked", "parked", 10)
        wait_until(lambda: pollers() == [], "no thread")
        assert client.session(session.id) is session  # while anybody refers to it
        server.say(session.id, "from elsewhere")
        server.wait_idle()
        assert next(e.message for e in session.iter_events(timeout=0, kinds="message")) == "from elsewhere"
        assert session.send("back again").text == "echo: back again"


def test_parked_and_forgotten(server: FakeServer) -> None:
    with Client(server.base_url, poll_wait=1, idle_timeout=0.1) as client:
        session_id = client.create_session("a").id
        held = weakref.ref(client.sessions[session_id])
        wait_until(lambda: gc.collect() >= 0 and held() is None, "collected", 10)
        assert session_id not in client.sessions
        assert client.session(session_id).id == session_id


def test_not_parked_inside_a_call(server: FakeServer) -> None:
    server.agent("a").waits("g").replies("late")
    with Client(server.base_url, poll_wait=1, idle_timeout=0.1) as client, ThreadPoolExecutor(1) as pool:
        session = client.create_session("a")
        sending = pool.submit(session.send, "q")
        server.reached("g")
        server.wait_requests(f"GET /sessions/{session.id}/events", count=4, timeout=10)  # polls on, empty as they are
        assert session.health.state == "polling"
        server.release("g")
        assert sending.result(10).text == "late"


def test_a_dead_session_is_let_go_of_and_opened_anew(server: FakeServer) -> None:
    with Client(server.base_url) as client:
        session = client.create_session("a")
        server.wait_polls(1)
        server.fail_next(f"GET /sessions/{session.id}/events", 403)
        server.say(session.id, "x")
        wait_until(lambda: session.closed, "ended")
        with pytest.raises(errors.PermissionDeniedError):
            session.send("x")
        wait_until(lambda: session.id not in client.sessions, "forgotten")
        again = client.session(session.id)
        assert again is not session
        assert again.send("hello").text == "echo: hello"


def test_a_client_nobody_refers_to_ends_its_threads(server: FakeServer) -> None:
    client = Client(server.base_url)
    session = client.create_session("a")
    server.wait_polls(1)
    del client
    gc.collect()
    assert len(pollers()) == 1  # a session keeps its client
    assert session.send("hello").text == "echo: hello"
    server.wait_polls(1)
    del session
    gc.collect()
    wait_until(lambda: pollers() == [], "no thread")


def test_no_thread_is_a_typed_error_and_leaves_nothing(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith("parlant-sync"):
            raise RuntimeError("can't start new thread")
        start(self)

    session_id = server.create_session("a")
    with Client(server.base_url) as client:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        for call in (lambda: client.session(session_id), lambda: client.create_session("a")):
            with pytest.raises(errors.TransportError, match="no thread"):
                call()
        assert not client.sessions
        monkeypatch.undo()
        assert client.session(session_id).send("x").text == "echo: x"
