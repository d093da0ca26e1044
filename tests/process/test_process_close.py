"""``close()`` from everywhere, threads that cannot start, no descriptors left, a wall clock that jumps."""

from __future__ import annotations

import ast
import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.process_helpers import ROOT, run
from support.waiting import Background

from parlant_sync import Client, DeliveryUncertain, Session, SessionClosed, TransportError
from parlant_sync.testing import FakeServer


def test_from_another_thread_with_everybody_blocked(server: FakeServer) -> None:
    server.agent("quick").forget().waits("never")
    client = Client(server.base_url)
    session = client.create_session("quick")
    server.wait_polls(1)
    sending = Background(session.send, "one", timeout=60)
    readers = [Background(list, session.iter_events()), Background(list, session.iter_events(since="latest"))]
    triggering = Background(session.trigger, timeout=60)
    server.reached("never")
    started = time.monotonic()
    client.close()
    took = time.monotonic() - started
    assert took < 0.5
    assert isinstance(sending.error(5), SessionClosed)
    assert isinstance(triggering.error(5), (SessionClosed, TransportError))
    assert all(isinstance(reader.result(5), list) for reader in readers)
    server.wait_no_polls()


def test_with_a_send_queued_behind_a_turn_that_nobody_drives(server: FakeServer) -> None:
    server.agent("quick").forget().waits("never")
    with Client(server.base_url) as client:
        session = client.create_session("quick")
        turn = session.stream("held", timeout=60)
        barrier = threading.Event()

        def send() -> str:
            barrier.set()
            return session.send("queued", timeout=60).text

        queued = Background(send)
        assert barrier.wait(5)
        session.close()
        assert isinstance(queued.error(5), SessionClosed)
        turn.close()


@pytest.mark.parametrize("what", ["session", "client", "reader"])
def test_from_inside_a_loop(what: str, server: FakeServer) -> None:
    with Client(server.base_url) as client:
        session = client.create_session("quick")
        session.send("hello")
        held = server.events(session.id)
        reader = session.iter_events(timeout=5)
        given = []
        for event in reader:
            given.append(event.offset)
            if len(given) == 2:
                {"session": session, "client": client, "reader": reader}[what].close()
        assert given in ([0, 1], [event["offset"] for event in held])
        assert session.closed == (what != "reader")


def test_from_inside_a_stream(server: FakeServer) -> None:
    server.agent("quick").forget().streams("a b c d", every=0.01)
    with Client(server.base_url) as client:
        session = client.create_session("quick")
        with session.stream("go") as turn:
            pieces = iter(turn.text)
            next(pieces)
            session.close()
            with pytest.raises(SessionClosed):
                list(pieces)


def test_from_a_finalizer(server: FakeServer) -> None:
    """In whatever thread the collector runs, under whatever lock: it must not block, or take our locks."""
    client = Client(server.base_url)
    session = client.create_session("quick")
    server.wait_polls(1)

    class Holder:
        def __del__(self) -> None:
            client.close()

    holder: Any = Holder()
    holder.cycle = holder
    del holder
    gc.collect()
    assert session.closed
    server.wait_no_polls()


@pytest.mark.parametrize(
    "lock", ["session._opened.hub._lock", "session._opened.poller._lock", "client._registry._book.lock"]
)
def test_collected_while_this_thread_holds_our_locks(lock: str, server: FakeServer) -> None:
    """What nobody refers to any more is collected in the middle of anything; its finalizer takes no lock."""
    client = Client(server.base_url)
    session = client.create_session("quick")
    server.wait_polls(1)
    name, *path = lock.split(".")
    held: Any = {"session": session, "client": client}[name]
    for attribute in path:
        held = getattr(held, attribute)
    alive = [weakref.ref(client), weakref.ref(session)]
    with held:
        del client, session
        gc.collect()
    assert [ref() for ref in alive] == [None, None]
    server.wait_no_polls()


def test_twice_and_by_many_at_once(server: FakeServer) -> None:
    client = Client(server.base_url)
    sessions = [client.create_session("quick") for _ in range(5)]
    server.wait_polls(5)
    barrier = threading.Barrier(12)

    def close(thing: Client | Session) -> None:
        barrier.wait()
        thing.close()
        thing.close()

    closing = [Background(close, thing) for thing in [*sessions, *sessions, client, client]]
    assert [each.result(5) for each in closing] == [None] * 12
    server.wait_no_polls()
    with pytest.raises(SessionClosed):
        client.create_session("quick")


def test_at_once_with_send(server: FakeServer) -> None:
    """Many times, at the same moment: a reply or SessionClosed (or uncertain, if it was cut), never a hang."""
    for _ in range(30):
        client = Client(server.base_url)
        session = client.create_session("quick")
        barrier = threading.Barrier(2)

        def send(barrier: Any = barrier, session: Session = session) -> str:
            barrier.wait()
            return session.send("hello", timeout=30).text

        sending = Background(send)
        barrier.wait()
        client.close()
        error = sending.error(5)
        assert error is None or isinstance(error, (SessionClosed, DeliveryUncertain, TransportError))
    server.wait_no_polls()


def test_a_thread_that_cannot_start(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    with Client(server.base_url) as client:
        good = client.create_session("quick")

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("parlant-sync"):
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(TransportError, match="thread"):
            client.create_session("quick")
        other = server.create_session("quick")
        attached = client.session(other)
        for call in (attached.iter_events, lambda: attached.send("not posted")):
            with pytest.raises(TransportError, match="thread"):
                call()
        assert attached.history() == []
        assert good.send("still here").text == "echo: still here"
        monkeypatch.setattr(threading.Thread, "start", start)
        assert client.session(other).send("recovered").text == "echo: recovered"


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_no_descriptors_left(server: FakeServer) -> None:
    """RLIMIT_NOFILE=64: a typed error, what works goes on working, and after a close there is room again."""
    done = run("few_descriptors.py", server.base_url)
    assert (done.code, done.err) == (0, ""), done.out + done.err
    assert done.out.startswith("READY")


@pytest.mark.parametrize("day", [86400.0, -86400.0], ids=["forth", "back"])
def test_the_wall_clock_jumps_by_a_day(day: float, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    wall = time.time
    server.agent("quick").forget().echoes().waits("gate")
    with Client(server.base_url, idle_timeout=3600, poll_wait=1) as client:
        session = client.create_session("quick")
        reader = session.iter_events(timeout=30)
        server.wait_polls(1)
        sending = Background(session.send, "hello", timeout=60)
        server.reached("gate")
        monkeypatch.setattr(time, "time", lambda: wall() + day)
        polls = session._opened.poller.counts.polls
        server.release("gate")
        assert sending.result().text == "echo: hello"
        assert session.send("again", timeout=60).text == "echo: again"
        assert next(reader).offset == 0
        assert session.health.state == "polling"
        assert session._opened.poller.counts.polls - polls < 30  # no poll came back early for it
        assert client.stats().failures == 0


def test_nothing_reads_the_wall_clock() -> None:
    """Except to tell a user when the last poll was."""
    wall = {"time.time", "datetime.now", "datetime.utcnow"}
    package = Path(ROOT) / "parlant_sync"
    found = [
        path.name
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] not in ("batch", "cli", "demo", "testing")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in wall
    ]
    assert found == ["poller.py"]  # counts.last_poll


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=[pytest.mark.full, pytest.mark.timeout(900)])])
def test_sessions_opened_and_closed_one_after_another(count: int, server: FakeServer) -> None:
    """Threads, sockets and memory are at the end what they were at the start."""
    with Client(server.base_url) as client:
        for _ in range(100):  # warm: modules, caches, pools
            client.create_session("quick").close()
        gc.collect()
        threads, memory = threading.active_count(), _resident()
        descriptors = len(os.listdir("/proc/self/fd"))
        for number in range(count):
            session = client.create_session("quick")
            if number % 100 == 0:
                assert session.send("hello").text == "echo: hello"
            session.close()
            if number % 1000 == 999:
                server.forget_requests()
                for session_id in list(server.sessions):
                    server.delete_session(session_id)
        assert not client.sessions
        assert not client._registry._book.polling  # the mapping above leaves closed ones out
        server.wait_no_polls()
        gc.collect()
        assert threading.active_count() <= threads
        assert len(os.listdir("/proc/self/fd")) <= descriptors + 4
        # The stand-in lives in this process and remembers its sessions: 20 MB are its own.
        assert _resident() - memory < 40_000_000


LOCKS: dict[str, Callable[[Client, Session], Any]] = {
    "transport": lambda client, session: client._transport._lock,
    "registry": lambda client, session: client._registry._book.lock,
    "hub": lambda client, session: session._opened.hub._lock,
    "poller": lambda client, session: session._opened.poller._lock,
}


@pytest.mark.parametrize("name", LOCKS)
def test_a_signal_handler_closes_the_client_while_its_thread_holds_a_lock(name: str, server: FakeServer) -> None:
    """The handler runs in the thread that it interrupted, perhaps inside a lock of ours."""
    client = Client(server.base_url)
    session = client.create_session("quick")
    server.wait_polls(1)
    handled: list[float] = []

    def handle(*_: object) -> None:
        started = time.monotonic()
        client.close()
        handled.append(time.monotonic() - started)

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with LOCKS[name](client, session):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert handled[0] < 4  # close_timeout is 5
    client.close()
    assert session.closed
