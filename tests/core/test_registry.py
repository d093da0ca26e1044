"""One id, one object, one poller; and their common end."""

from __future__ import annotations

import functools
import gc
import itertools
import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.raw_api import Background, in_background
from support.waiting import must_end, wait_until

from parlant_sync import Client, errors
from parlant_sync import _registry as registry_module
from parlant_sync._deadline import Deadline
from parlant_sync._polling.event_hub import EventHub
from parlant_sync._registry import Registry
from parlant_sync.testing import FakeServer


def pollers() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("parlant-sync-poll-")]


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


def test_threads_that_open_one_session_share_its_failure(server: FakeServer) -> None:
    hold = server.hold_next("GET /sessions/nowhere")
    with Client(server.base_url) as client:
        threading.Thread(target=lambda: (server.wait_requests("GET /sessions/nowhere"), hold.release())).start()
        results = together(50, lambda: client.session("nowhere"))
        assert {type(r) for r in results} == {errors.NotFoundError}
        assert len({id(r) for r in results}) == 50  # each has an instance, and a traceback, of its own
        assert not client.sessions
        assert pollers() == []


def test_another_since_for_an_open_session_is_refused(server: FakeServer) -> None:
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


def test_after_a_close_every_call_says_that_it_was_closed(server: FakeServer) -> None:
    client = Client(server.base_url)
    session = client.create_session("a")
    session.close()
    session.close()
    with pytest.raises(errors.SessionClosed, match=session.id):
        session.send("x")
    client.close()
    client.close()
    for call in (client.agents, lambda: client.session("x"), lambda: client.create_session("a")):
        with pytest.raises(errors.SessionClosed):
            call()


def test_a_session_that_opens_while_its_client_is_closed(server: FakeServer) -> None:
    """The client is closed while an attach is under way."""
    session_id = server.create_session("a")
    client = Client(server.base_url)
    hold = server.hold_next(f"GET /sessions/{session_id}")
    opening = in_background(client.session, session_id)
    server.wait_requests(f"GET /sessions/{session_id}")
    client.close()
    hold.release()
    with pytest.raises(errors.SessionClosed):
        opening.result(10)
    assert pollers() == []


@pytest.mark.parametrize(
    "delete", [lambda client, session: session.delete(), lambda client, session: client.delete_session(session.id)]
)
def test_a_session_deleted_here_says_so_whoever_notices_first(
    server: FakeServer, delete: Callable[[Client, Any], None]
) -> None:
    """The poller may meet the 404 before the answer to the DELETE is in."""
    with Client(server.base_url) as client:
        session = client.create_session("a")
        refused = client.create_session("a")
        server.wait_polls(1, session.id)
        hold = server.hold_next("DELETE")
        reading = in_background(list, session.iter_events())
        deleting = in_background(delete, client, session)
        assert reading.result(5) == []  # the end of a loop, and no error
        assert deleting.running
        hold.release()
        deleting.result(5)
        with pytest.raises(errors.SessionClosed, match="was deleted"):
            session.send("x")
        server.fail_next("DELETE", 403, b"{}")
        with pytest.raises(errors.PermissionDeniedError):
            delete(client, refused)
        assert refused.send("still here").text == "echo: still here"
        server.delete_session(refused.id)
        with pytest.raises(errors.NotFoundError):
            list(refused.iter_events())


def test_a_parked_and_forgotten_session_is_read_on_where_reading_stopped(server: FakeServer) -> None:
    """As a web application uses it: whoever asks for a session by its id holds nothing from one request to the next."""
    with Client(server.base_url, poll_wait=1, idle_timeout=0.2) as client:
        session_id = client.create_session("a").id

        def read() -> list[str | None]:
            return [e.message for e in client.session(session_id).iter_events(timeout=0, kinds="message")]

        client.session(session_id).send("one")
        assert read() == ["one", "echo: one"]
        wait_until(lambda: session_id not in client.sessions, "forgotten", 10)
        server.human(session_id, "Dana here")
        assert read() == ["Dana here"]
        assert read() == []
        wait_until(lambda: session_id not in client.sessions, "forgotten", 10)
        server.human(session_id, "still here")
        latest = client.session(session_id, since="latest")  # who says so means it
        assert list(latest.iter_events(timeout=0)) == []
        latest.close()
        server.human(session_id, "and now")
        assert read() == []  # of a session that was closed nothing is remembered


def test_a_session_closed_while_its_place_is_stored_is_not_kept() -> None:
    """By a __del__ that a collection runs in there, in the same thread."""
    registry = Registry()
    session: Any = FakeSession(state="parked")

    class Remembering(OrderedDict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            super().__setitem__(key, value)
            session.close()
            registry.forget(session)

    registry._book.left_off = Remembering()
    registry.add(session)
    assert registry.left_off("s") is None
    assert not registry.all()


def test_what_is_remembered_of_forgotten_sessions_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_REMEMBERED", 3)
    registry = Registry()
    for number in range(5):
        registry.add(FakeSession(str(number), state="parked"))  # type: ignore[arg-type]
    assert [registry.left_off(str(number)) for number in range(5)] == [None, None, 0, 0, 0]


def test_a_closed_session_leaves_nothing_to_its_finalizer(server: FakeServer) -> None:
    """An interrupt that falls into a finalizer is printed and lost."""
    with Client(server.base_url) as client:
        session = client.create_session("a")
        finalizer = session._opened._finalizer
        assert finalizer.alive
        session.close()
        assert not finalizer.alive


def test_a_session_is_not_parked_during_a_call(server: FakeServer) -> None:
    server.agent("a").waits("g").replies("late")
    with Client(server.base_url, poll_wait=1, idle_timeout=0.1) as client:
        session = client.create_session("a")
        sending = in_background(session.send, "q")
        server.reached("g")
        server.wait_requests(f"GET /sessions/{session.id}/events", count=4, timeout=10)  # polls on, empty as they are
        assert session.health.state == "polling"
        server.release("g")
        assert sending.result(10).text == "late"


def test_a_session_whose_polling_has_ended_is_opened_anew(server: FakeServer) -> None:
    with Client(server.base_url) as client:
        session = client.create_session("a")
        server.wait_polls(1)
        server.fail_next(f"GET /sessions/{session.id}/events", 403, b'{"detail": "no"}')
        server.say(session.id, "x")
        wait_until(lambda: session.closed, "ended")
        with pytest.raises(errors.PermissionDeniedError):
            session.send("x")
        wait_until(lambda: session.id not in client.sessions, "forgotten")
        again = client.session(session.id)
        assert again is not session
        assert again.send("hello").text == "echo: hello"


@pytest.mark.parametrize(
    ("refusal", "advice"),
    [
        ("can't start new thread", "close sessions"),
        ("daemon threads are disabled in this (sub)interpreter", "use a process or a thread pool"),
    ],
)
def test_no_thread_is_a_typed_error_and_leaves_nothing(
    server: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch, refusal: str, advice: str
) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith("parlant-sync"):
            raise RuntimeError(refusal)
        start(self)

    session = client.session(server.create_session("a"))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for call in (lambda: session.send("x"), session.iter_events, lambda: client.create_session("a")):
        with pytest.raises(errors.TransportError, match=f"{server.base_url}: no thread can be started .*; {advice}"):
            call()
    assert (session.history(), list(client.sessions), session.health.state) == ([], [session.id], "new")
    monkeypatch.undo()
    assert session.send("x").text == "echo: x"


# -- the registry alone


class FakePoller:
    def __init__(self, trouble: BaseException | None = None) -> None:
        self.trouble = trouble

    def start(self) -> None:
        if self.trouble is not None:
            raise self.trouble


class FakeSession:
    """What the registry uses of an open session."""

    def __init__(self, session_id: str = "s", *, state: str = "polling", trouble: BaseException | None = None) -> None:
        self.id = session_id
        self.where = "session s"
        self.state = state
        self.closed = False
        self.poller = FakePoller(trouble)
        self.hub = EventHub(0)

    def close(self, deadline: Deadline | None = None) -> None:
        self.closed = True

    def begin_close(self, why: str) -> None:
        self.closed = True

    def end_close(self, deadline: Deadline) -> None: ...


def get(registry: Registry, make: Callable[[], Any], timeout: float = 5.0) -> Any:
    return registry.get_or_open("s", make, timeout)


def interrupted_at(line: int, call: Callable[[], Any]) -> tuple[Any, bool]:
    """What ``call`` gives, or None; and whether it came to so many lines of the registry, and was interrupted there."""
    lines = 0

    def trace(frame: Any, event: str, arg: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != registry_module.__file__:
            return None
        lines += event == "line"
        if event == "line" and lines == line:
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        return call(), False
    except errors.TransportError:
        return None, False
    except KeyboardInterrupt:
        return None, True
    finally:
        sys.settrace(None)


def slow_opener(registry: Registry, outcome: object) -> tuple[Background, Callable[[], None]]:
    """A thread that is opening the session; after a call of the second, it has ``outcome``, or raises it."""
    began, go_on = threading.Event(), threading.Event()

    def make() -> Any:
        began.set()
        assert go_on.wait(5)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    opening = in_background(get, registry, make)
    assert began.wait(5)
    return opening, go_on.set


CLOSED = FakeSession()
CLOSED.closed = True


@pytest.mark.parametrize("outcome", [KeyboardInterrupt(), ZeroDivisionError("a bug"), CLOSED])
def test_who_waits_for_an_opener_in_vain_opens_the_session_itself(outcome: object) -> None:
    registry = Registry()
    first, go_on = slow_opener(registry, outcome)
    others = [in_background(get, registry, FakeSession) for _ in range(7)]
    go_on()
    assert first.result() is CLOSED if outcome is CLOSED else first.error() is outcome
    (opened,) = {other.result() for other in others}
    assert not opened.closed


def test_the_texts_name_the_server_and_what_to_do() -> None:
    registry = Registry("http://there")
    slow, go_on = slow_opener(registry, FakeSession())
    with pytest.raises(errors.TransportError, match=r"session s on http://there: .*did not end in time; try again"):
        get(registry, FakeSession, timeout=0.01)
    assert not get(registry, FakeSession, timeout=0.01).closed  # it blocks nobody for good
    go_on()
    slow.result()
    registry.close(Deadline(1))
    with pytest.raises(errors.SessionClosed, match="of http://there was closed; make a new Client"):
        get(registry, FakeSession)


def unreachable() -> FakeSession:
    raise errors.TransportError("refused")


@pytest.mark.parametrize("make", [FakeSession, unreachable])
def test_an_interrupt_at_any_line_of_an_opener_leaves_the_id_free(make: Callable[[], FakeSession]) -> None:
    for line in itertools.count(1):
        registry = Registry()
        opened, interrupted = interrupted_at(line, functools.partial(get, registry, make))
        again = get(registry, FakeSession, timeout=0)
        assert opened in (None, again)
        assert not again.closed
        if not interrupted:
            break
    assert line > 20


@pytest.mark.parametrize(
    "trouble", [KeyboardInterrupt(), errors.TransportError("no thread")], ids=["interrupt", "error"]
)
def test_a_session_that_cannot_be_started_is_closed_and_freed(trouble: BaseException) -> None:
    registry = Registry()
    session: Any = FakeSession(trouble=trouble)
    gone = weakref.ref(session)
    gc.disable()  # nothing must hold it in a circle
    try:
        with pytest.raises(type(trouble)):
            registry.add(session)
        trouble.__traceback__ = None
        assert session.closed
        del session
        assert gone() is None
    finally:
        gc.enable()
    assert not registry.all()


def test_a_session_made_while_its_client_is_closed_is_closed_too() -> None:
    registry, session = Registry(), FakeSession()

    def make() -> FakeSession:
        registry.close(Deadline(0))
        return session

    with pytest.raises(errors.SessionClosed, match="make a new Client"):
        get(registry, make)
    assert (session.closed, registry.all()) == (True, [])


def test_a_failure_is_shared_without_what_it_was_about() -> None:
    """No circle from the future through its error's traceback to itself."""
    registry = Registry()
    futures: list[weakref.ref[Any]] = []

    def fail() -> Any:
        futures.append(weakref.ref(registry._book.opening["s"]))
        raise errors.NotFoundError("no such session", status=404)

    gc.disable()
    try:
        with pytest.raises(errors.NotFoundError):
            get(registry, fail)
        assert futures[0]() is None
    finally:
        gc.enable()


def test_parked_sessions_may_be_freed_while_they_are_listed() -> None:
    registry = Registry()
    sessions = [FakeSession(str(number), state="parked") for number in range(3)]
    for session in sessions:
        registry.add(session)  # type: ignore[arg-type]
    del session

    class Vanishing(weakref.WeakValueDictionary[str, Any]):
        """Between the look at what there is and the taking of it."""

        def keys(self) -> Any:
            found = list(super().keys())
            sessions.clear()
            return found

        def valuerefs(self) -> Any:
            found = super().valuerefs()
            sessions.clear()
            return found

    registry._book.open = Vanishing(registry._book.open)
    assert registry.all() == []


class CollectingLock:
    """The book's lock, and a collection that runs when it has been taken."""

    def __init__(self, lock: Any, collect: Callable[[], None]) -> None:
        self._lock, self._left = lock, [collect]

    def __enter__(self) -> None:
        self._lock.acquire()
        if self._left:
            self._left.pop()()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@pytest.mark.parametrize(
    "call",
    [
        lambda registry, session: registry.all(),
        lambda registry, session: get(registry, FakeSession),
        lambda registry, session: registry.note(session),
        lambda registry, session: registry.forget(session),
        lambda registry, session: registry.add(FakeSession()),
        lambda registry, session: registry.close(Deadline(0)),
        lambda registry, session: registry.stop_pollers(Deadline(0)),
    ],
)
def test_a_session_that_is_closed_in_the_middle_by_the_same_thread(call: Callable[..., object]) -> None:
    """A collection runs a user's ``__del__`` that closes its session, wherever this thread is."""
    registry = Registry()
    session: Any = registry.add(FakeSession())  # type: ignore[arg-type]
    session.poller.stop = session.poller.join = lambda *_: None

    def collect() -> None:
        session.close()
        registry.forget(session)

    registry._book.lock = CollectingLock(registry._book.lock, collect)  # type: ignore[assignment]
    must_end(call, registry, session)
    assert session not in registry.all()
    assert session not in registry._book.polling.values()


@pytest.mark.parametrize("state", ["polling", "parked"])
def test_a_session_that_ends_while_it_is_registered_is_not_kept(state: str) -> None:
    """Its first poll was refused: what told the registry so found nothing to let go of, and comes no more."""
    registry = Registry()
    session: Any = FakeSession(state=state)

    def ends_at_once() -> None:
        session.closed = True
        registry.note(session)

    session.poller.start = ends_at_once
    assert registry.add(session) is session
    assert registry._book.polling == {}
    assert registry._book.left_off == {}
    assert list(registry._book.open) == []


def test_a_process_that_was_forked_without_a_hook_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """As uWSGI's do: their locks may be held by threads that exist in the parent only."""
    registry = Registry()
    session: Any = FakeSession()
    dropped: list[Any] = []
    session.drop_inherited = lambda: dropped.append(session)
    registry.add(session)
    registry._book.lock = None  # type: ignore[assignment]  # a use of it would raise
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert registry.all() == []
    assert not get(registry, FakeSession).closed
    assert dropped == [session]
    monkeypatch.undo()
