"""The session itself: what is changed of it, how it ends, and what those hear who are inside of a call."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from parlant_sync import Client, ConfigurationError, InvalidRequestError, Session, SessionClosed, UnsupportedByServer
from parlant_sync.testing import FakeServer, Response


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.agent("a")
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.base_url) as client:
        yield client


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (lambda client, session: session.delete(), "was deleted; make a new one"),
        (lambda client, session: client.delete_session(session.id), "was deleted; make a new one"),
        (lambda client, session: session.close(), "was closed; client.session"),
    ],
    ids=["delete", "delete_session", "close"],
)
def test_a_call_under_way_hears_why_it_was_cut(
    server: FakeServer, client: Client, end: Callable[[Client, Session], None], told: str
) -> None:
    polls = server.hold_next(lambda request: request.waits, times=None)  # or a poll may be the first to tell of a 404
    session = client.create_session("a")
    hold = server.hold_next(lambda request: request.method == "GET" and request.path == f"/sessions/{session.id}")
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(session.refresh)
        hold.wait()
        end(client, session)
        with pytest.raises(SessionClosed, match=told):
            reading.result(5)
    hold.release()
    polls.release()


def test_a_closed_session_is_held_by_nobody(client: Client) -> None:
    """A client that lives for weeks opens and closes many."""
    session = client.create_session("a")
    gone = weakref.ref(session)
    session.close()
    del session
    gc.collect()
    assert gone() is None


def test_labels_that_somebody_else_has_set_since_are_replaced_too(server: FakeServer, client: Client) -> None:
    session = client.create_session("a", labels=["old"])
    with Client(server.base_url) as other:
        other.session(session.id).update(labels=["old", "theirs"])
    session.update(labels=["new"])
    assert session.labels == session.refresh().labels == ("new",)


def test_metadata_is_merged(client: Client) -> None:
    session = client.create_session("a", metadata={"kept": 1, "gone": 2})
    session.update(metadata={"gone": None, "new": 3}, title="t")
    assert (dict(session.metadata), session.title) == ({"kept": 1, "new": 3}, "t")


@pytest.mark.parametrize(
    ("version", "wanted", "told"),
    [
        ("3.0", {"metadata": {"x": 1}}, r"update\(metadata=\) needs Parlant 3.1 or newer; this server is 3.0"),
        ("3.1", {"labels": ["l"]}, r"update\(labels=\) needs Parlant 3.2 or newer; this server is 3.1"),
        ("3.0", {"customer_id": "c"}, r"update\(customer_id=\) needs Parlant 3.1 or newer; this server is 3.0"),
    ],
)
def test_an_old_server_keeps_less(version: str, wanted: dict[str, Any], told: str) -> None:
    """What else was to be changed, has been."""
    with FakeServer(version) as server, Client(server.base_url) as client:
        server.agent("a")
        session = client.create_session("a")
        with pytest.raises(UnsupportedByServer, match=told):
            session.update(title="t", **wanted)
        assert session.title == session.refresh().title == "t"


def test_a_change_that_is_answered_without_a_body_is_read(server: FakeServer, client: Client) -> None:
    session = client.create_session("a")
    server.alter_next(lambda request: request.method == "PATCH", lambda response: Response(204))
    session.update(title="t")
    assert session.title == "t"


@pytest.mark.parametrize(
    ("data", "stored"),
    [
        ("typing", {"status": "typing", "data": {}}),
        ({"status": "typing", "data": {"stage": "s"}}, {"status": "typing", "data": {"stage": "s"}}),
        ({"status": "typing", "data": None}, {"status": "typing", "data": {}}),
    ],
    ids=["a name", "with data", "without data"],
)
def test_a_status_is_posted_by_its_name_or_whole(client: Client, data: Any, stored: dict[str, Any]) -> None:
    session = client.create_session("a")
    assert session.post_event("status", data).data == stored
    assert [(event.kind, event.data) for event in session.history()] == [("status", stored)]


def test_a_custom_event_is_posted_as_it_is(client: Client) -> None:
    session = client.create_session("a")
    event = session.post_event("custom", {"x": [1]}, metadata={"mine": 1})
    assert (event.kind, event.source, event.data, dict(event.metadata)) == (
        "custom",
        "customer_ui",
        {"x": [1]},
        {"mine": 1},
    )


# -- the human side


@pytest.mark.parametrize("source", ["human_agent", "human_agent_on_behalf_of_ai_agent"])
def test_a_colleague_speaks(server: FakeServer, client: Client, source: Any) -> None:
    session = client.create_session("a")
    event = session.post("I take over", source=source, participant={"display_name": "Dana"}, key="k")
    assert (event.kind, event.source, event.message) == ("message", source, "I take over")
    assert session.find("k") == event == session.history()[0]
    server.forget_requests()
    for participant in (None, {}, {"display_name": ""}, {"display_name": 5}, {"id": "x"}):
        with pytest.raises(ConfigurationError, match="display_name"):
            session.post("x", source=source, participant=participant)
    assert not [r for r in server.requests if r.method == "POST"]


def test_events_are_deleted_from_an_offset_on(client: Client) -> None:
    session = client.create_session("a")
    session.send("hello")
    with pytest.raises(InvalidRequestError, match="trace"):  # in the middle of a turn
        session.delete_events(3)
    session.delete_events(1)
    assert [e.message for e in session.history()] == ["hello"]
    session.delete_events("beginning")
    assert session.history() == []


# -- once


def test_once_follows_what_was_posted_before(server: FakeServer, client: Client) -> None:
    """As a task that runs again after a crash."""
    server.agent("a").replies("first").replies("second")
    session = client.create_session("a")
    assert session.send("q", key="k", once=True).text == "first"
    with Client(server.base_url) as other:
        again = other.session(session.id).send("q", key="k", once=True)
        assert (again.text, again.outcome) == ("first", "answered")
        with other.session(session.id).stream("q", key="k", once=True) as turn:
            assert "".join(turn.text) == "first"
    assert [e.message for e in session.history(sources="customer")] == ["q"]
    assert session.send("q", key="k").text == "second"


def test_once_needs_a_key_and_a_server_that_keeps_it() -> None:
    with FakeServer("3.0") as server, Client(server.base_url) as client:
        server.agent("a")
        session = client.create_session("a")
        with pytest.raises(ConfigurationError, match="once=True needs key="):
            session.send("q", once=True)
        with pytest.raises(UnsupportedByServer, match=r"send\(once=True\) needs Parlant 3.1 .* is 3.0"):
            session.send("q", key="k", once=True)
        assert session.history() == []


# -- cancel


def of_version_4(response: Response) -> None:
    response.body = response.body.rstrip()[:-1] + b', "modified_utc": "2026-11-30T02:45:23Z"}'


def test_a_turn_is_cancelled_at_the_server(server: FakeServer, client: Client) -> None:
    session_id = server.create_session("a")
    server.alter_next(f"GET /sessions/{session_id}", of_version_4)
    session = client.session(session_id)
    session.cancel()
    (posted,) = [r for r in server.requests if r.method == "POST"]
    assert posted.json == {"kind": "status", "source": "customer_ui", "status": "cancelled"}
    server.fail_next("POST", 409, b'{"detail": "nothing is running"}')
    session.cancel()
    server.fail_next("POST", 422, b'{"detail": "no"}')
    with pytest.raises(InvalidRequestError):
        session.cancel()


@pytest.mark.parametrize("version", ["3.0", "3.1", "3.2", "3.3"])
def test_earlier_servers_are_never_sent_a_cancel(version: str) -> None:
    with FakeServer(version) as server, Client(server.base_url) as client:
        server.agent("a")
        session = client.create_session("a")
        with pytest.raises(
            UnsupportedByServer, match=rf"cancel\(\) needs Parlant 4.0 or newer; this server is .*{version}"
        ):
            session.cancel()
        assert session.history() == []


def test_an_interrupting_message_does_not_wait_and_both_get_the_common_reply(
    server: FakeServer, client: Client
) -> None:
    server.agent("a").waits("gate").replies("to both")
    session = client.create_session("a")
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(session.send, "one", timeout=10)
        server.reached("gate")
        interrupting = pool.submit(session.send, "two", interrupt=True, timeout=10)
        server.wait_events(session.id, 8)  # the second turn is acknowledged
        server.release("gate")
        assert [call.result(10).text for call in (waiting, interrupting)] == ["to both"] * 2


def test_labels_in_a_list_of_sessions_need_a_server_that_has_them() -> None:
    with FakeServer("3.1") as server, Client(server.base_url) as client:
        server.agent("a")
        session = client.create_session("a")
        assert [info.id for info in client.list_sessions()] == [session.id]
        with pytest.raises(UnsupportedByServer, match=r"list_sessions\(labels=\) needs Parlant 3.2 .* is 3.1"):
            list(client.list_sessions(labels=["x"]))


@pytest.mark.parametrize("interrupt", [True, False])
def test_of_calls_with_one_key_at_the_same_time_one_posts(interrupt: bool) -> None:
    """A page that repeats a request, a queue that delivers a task twice."""
    with FakeServer() as server, server.client() as client, ThreadPoolExecutor() as pool:
        server.agent("a").echoes()
        session = client.create_session("a")
        together = threading.Barrier(3)

        def send() -> str:
            together.wait(10)
            return session.send("m", key="k", once=True, interrupt=interrupt, timeout=20).text

        assert [call.result() for call in [pool.submit(send) for _ in range(3)]] == ["echo: m"] * 3
        assert len(session.history(kinds="message", sources="customer")) == 1
