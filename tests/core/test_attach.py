"""Attaching costs one request and no thread; the first turn, post or reader decides where the default reader begins."""

from __future__ import annotations

import contextlib
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.raw_api import in_background
from support.waiting import wait_until

from parlant_sync import AgentError, Client, NotFoundError, ServerError, Session, TurnTimeout
from parlant_sync._api import posting
from parlant_sync.testing import FakeServer


def pollers() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("parlant-sync-poll-")]


def calls(server: FakeServer) -> list[str]:
    """The requests in short: method, path behind the session's, offset; without long polls."""
    return [
        f"{r.method} {'/'.join(r.path.split('/')[3:])} {r.query.get('min_offset', '')}".strip()
        for r in server.requests
        if not r.waits
    ]


def test_the_last_messages_of_forty_sessions(server: FakeServer, client: Client) -> None:
    """As an operator's desk reads them."""
    ids = [server.create_session("a") for _ in range(40)]
    for session_id in ids:
        server.human(session_id, f"in {session_id}")
    server.forget_requests()
    assert [client.history(i, kinds="message")[-1].message for i in ids] == [f"in {i}" for i in ids]
    assert (len(server.requests), pollers()) == (40, [])
    assert not client.sessions
    server.forget_requests()
    assert [client.session(i).history()[-1].message for i in ids] == [f"in {i}" for i in ids]
    assert (len(server.requests), pollers()) == (80, [])
    assert not client.sessions  # nobody refers to them: nothing is kept


def test_a_long_session_costs_two_requests_before_the_answer_to_a_post(server: FakeServer, client: Client) -> None:
    session_id = server.create_session("a")
    server.fill(session_id, 50_000)
    server.forget_requests()
    session = client.session(session_id)
    assert (session.cursor, session.health.state, pollers()) == (None, "new", [])
    assert session.send("hello").text == "echo: hello"
    assert calls(server) == ["GET", "POST events"]
    assert client.stats().bytes < 20_000
    assert [e.message for e in session.iter_events(timeout=0, kinds="message")] == ["hello", "echo: hello"]


FIRST: dict[str, Callable[[Session], Any]] = {
    "send": lambda s: s.send("now"),
    "stream": lambda s: s.stream("now").reply(),
    "post": lambda s: s.post("now"),
    "a colleague's post": lambda s: s.post("now", source="human_agent", participant={"display_name": "D"}),
    "post_event": lambda s: s.post_event("custom", {"now": True}),
    "send with a key": lambda s: s.send("now", key="k", once=True),
}


@pytest.mark.parametrize("first", FIRST)
def test_the_default_reader_begins_with_what_was_posted_first(server: FakeServer, client: Client, first: str) -> None:
    session_id = server.create_session("a")
    server.fill(session_id, 5)
    session = client.session(session_id)
    server.fill(session_id, 5)
    FIRST[first](session)
    server.wait_idle()
    server.say(session_id, "later")
    server.wait_idle()
    found = list(session.iter_events(timeout=0))
    assert found[0].offset == 10
    assert found == session.history(10)


def test_reply_to_begins_with_its_message(server: FakeServer, client: Client) -> None:
    """In a process that was started again."""
    session_id = server.create_session("a")
    server.fill(session_id, 5)
    event = client.session(session_id).post("before the crash")
    server.wait_idle()
    with Client(server.base_url) as again:
        session = again.session(session_id)
        assert session.reply_to(event).text == "echo: before the crash"
        assert next(session.iter_events(timeout=0)) == event


@pytest.mark.parametrize("guidelines", [None, "say it"])
def test_trigger_begins_after_what_was_there(server: FakeServer, client: Client, guidelines: str | None) -> None:
    session_id = server.create_session("a")
    server.say(session_id, "old")
    server.wait_idle()
    old = len(server.events(session_id))
    server.agent("a").replies("spoken now")
    session = client.session(session_id)
    assert session.trigger(guidelines).text == "spoken now"
    assert next(session.iter_events(timeout=0)).offset == old


def test_next_turn_begins_after_what_was_there(server: FakeServer, client: Client) -> None:
    session_id = server.create_session("a")
    server.say(session_id, "old")
    server.wait_idle()
    session = client.session(session_id)
    waiting = in_background(session.next_turn, timeout=10)
    wait_until(lambda: session.cursor is not None)
    with Client(server.base_url) as other:
        other.session(session_id).send("from elsewhere")
    assert waiting.result(10).text == "echo: from elsewhere"


def test_iter_events_gives_what_comes_after_it_was_called(server: FakeServer, client: Client) -> None:
    session_id = server.create_session("a")
    server.fill(session_id, 5)
    session = client.session(session_id)
    server.fill(session_id, 5)
    with session.iter_events(timeout=5) as reader:
        assert session.cursor == reader.cursor == 10
        server.fill(session_id, 1)
        assert next(reader).offset == 10


@pytest.mark.parametrize(("since", "given"), [(0, 10), ("beginning", 10), (4, 6), (10, 0), (99, 0)])
def test_an_independent_reader_costs_one_list_and_decides_where_the_default_one_begins(
    server: FakeServer, client: Client, since: Any, given: int
) -> None:
    session_id = server.create_session("a")
    server.fill(session_id, 10)
    server.forget_requests()
    session = client.session(session_id)
    assert len(list(session.iter_events(since=since, timeout=0))) == given
    lists = [call for call in calls(server) if "events" in call]
    assert len(lists) == (1 if since != 99 else 2)
    assert session.cursor == 10
    server.fill(session_id, 2)
    assert [e.offset for e in session.iter_events(timeout=0)] == [10, 11]


def test_an_independent_reader_of_a_new_session_goes_on_without_a_gap(server: FakeServer, client: Client) -> None:
    session_id = server.create_session("a")
    server.fill(session_id, 10)
    reader = client.session(session_id).iter_events(since=3, timeout=5)
    server.fill(session_id, 10)
    assert [next(reader).offset for _ in range(17)] == list(range(3, 20))
    reader.close()


def test_two_first_turns_at_once_miss_nothing(server: FakeServer, client: Client) -> None:
    """The later one may decide where polling begins, behind the events of the earlier one."""
    session_id = server.create_session("a")
    server.fill(session_id, 5)
    session = client.session(session_id)
    hold = server.hold_next("POST")
    first = in_background(session.send, "one", timeout=10)
    hold.wait()
    server.wait_idle()  # its turn is over, and its answer to the POST is still held
    second = in_background(session.send, "two", interrupt=True, timeout=10)
    assert second.result(15).text == "echo: two"
    hold.release()
    assert first.result(15).text == "echo: one"


def test_a_post_that_fails_does_not_decide_where_reading_begins(server: FakeServer) -> None:
    with Client(server.base_url, poll_wait=1, idle_timeout=0.2) as client:
        session_id = server.create_session("a")
        server.fill(session_id, 5)
        session = client.session(session_id)
        server.fail_next("POST", 422, b'{"detail": "no"}')
        with pytest.raises(Exception, match="422"):
            session.send("x")
        assert session.cursor is None
        wait_until(lambda: session.health.state == "parked")  # its thread has not polled, and does not stay
        assert [r for r in server.requests if r.waits] == []
        assert session.send("again").text == "echo: again"


def test_a_session_nobody_refers_to_is_forgotten_but_its_place_is_kept(server: FakeServer, client: Client) -> None:
    session_id = server.create_session("a")
    server.fill(session_id, 5)
    event = client.session(session_id).post("q")
    assert session_id not in client.sessions
    server.wait_idle()
    assert next(client.session(session_id).iter_events(timeout=0)) == event


def test_threads_end_without_the_garbage_collector(server: FakeServer) -> None:
    gc.collect()
    gc.disable()
    try:
        client = Client(server.base_url)
        sessions = [client.create_session("a"), client.session(server.create_session("a"))]
        for session in sessions:
            session.send("hello")
        turn, reader = sessions[0].stream("more"), sessions[1].iter_events()
        client_gone, gone = weakref.ref(client), [weakref.ref(session) for session in sessions]
        del client, sessions, session
        assert len(pollers()) == 2
        assert turn.reply().text == "echo: more"  # a turn or a reader keeps its session, and that its client
        assert next(reader).message == "hello"
        del turn, reader
        assert client_gone() is None
        assert [ref() for ref in gone] == [None, None]
        wait_until(lambda: pollers() == [])
    finally:
        gc.enable()


def asks_for_another(server: FakeServer, session: Session) -> None:
    with contextlib.suppress(NotFoundError):
        session._client.session("another")


def runs_out_of_time(server: FakeServer, session: Session) -> None:
    server.agent("a").ignores()
    with contextlib.suppress(TurnTimeout):
        session.send("q", timeout=0.2)


def fails_in_a_turn(server: FakeServer, session: Session) -> None:
    server.agent("a").fails("boom")
    with contextlib.suppress(AgentError):
        session.stream("q").reply()


def posts_what_is_refused(server: FakeServer, session: Session) -> None:
    server.fail_next("POST /events", 500)
    with contextlib.suppress(ServerError):
        session.post("q")


def triggers_what_fails(server: FakeServer, session: Session) -> None:
    server.fail_next("POST /events", 500)
    with contextlib.suppress(TurnTimeout):
        session.trigger(timeout=0.2)


def reads_through_an_outage(server: FakeServer, session: Session) -> None:
    session.send("q")
    server.fail_next("GET /sessions/*/events", 500, times=2)  # the next poll may get one of them
    assert next(session.iter_events(since=0, timeout=20)).offset == 0


ENDS = [asks_for_another, runs_out_of_time, fails_in_a_turn]
ENDS += [posts_what_is_refused, triggers_what_fails, reads_through_an_outage]


@pytest.mark.parametrize("call", ENDS)
def test_threads_end_without_the_garbage_collector_after_an_error(
    server: FakeServer, call: Callable[[FakeServer, Session], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that one of its own frames, or the turn, refers to would hold all that these frames refer to."""
    monkeypatch.setattr(posting, "LOOKS", (0.0,) * 5)
    gc.collect()
    gc.disable()
    try:
        client = Client(server.base_url)
        client_gone = weakref.ref(client)
        call(server, client.create_session("a"))
        del client
        assert client_gone() is None
        wait_until(lambda: pollers() == [])
    finally:
        gc.enable()
