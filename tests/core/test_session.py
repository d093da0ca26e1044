"""The session itself: what is changed of it, how it ends, and what those hear who are inside of a call."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support.raw_api import in_background

from parlant_sync import Client, ConfigurationError, InvalidRequestError, Session, SessionClosed, UnsupportedByServer
from parlant_sync.testing import FakeServer, Response


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
    reading = in_background(session.refresh)
    hold.wait()
    end(client, session)
    with pytest.raises(SessionClosed, match=told):
        reading.result(5)
    hold.release()
    polls.release()


def test_a_session_whose_client_was_closed_does_not_advise_that_client(client: Client) -> None:
    session = client.create_session("a")
    client.close()
    for call in (session.refresh, lambda: session.send("x"), lambda: next(session.iter_events())):
        with pytest.raises(SessionClosed, match="make a new Client"):
            call()


def test_a_closed_session_is_held_by_nobody(client: Client) -> None:
    """A client that lives for weeks opens and closes many."""
    session = client.create_session("a")
    gone = weakref.ref(session)
    session.close()
    del session
    gc.collect()
    assert gone() is None


def test_only_what_is_given_is_changed(server: FakeServer, client: Client) -> None:
    session = client.create_session("a", title="t", metadata={"kept": 1, "gone": 2}, labels=["old", "kept"])
    session.update(metadata={"gone": None, "zero": 0, "no": False, "never there": None})
    assert dict(session.metadata) == {"kept": 1, "zero": 0, "no": False}
    session.update(labels=["kept", "new"])
    assert set(session.labels) == {"kept", "new"}
    session.update(labels=[])
    assert (session.title, session.mode, session.labels) == ("t", "auto", ())
    assert len([r for r in server.requests if r.method == "PATCH"]) == 3  # each in one request
    session.update(title="", mode="manual", customer_id="c")
    assert server.requests[-1].json == {"title": "", "mode": "manual", "customer_id": "c"}


OLD_SERVERS: list[tuple[str, str, str, Callable[[Client, Session], object]]] = [
    ("3.0", "update(metadata=)", "3.1", lambda client, session: session.update(title="t", metadata={"x": 1})),
    ("3.0", "update(customer_id=)", "3.1", lambda client, session: session.update(title="t", customer_id="c")),
    ("3.1", "update(labels=)", "3.2", lambda client, session: session.update(title="t", labels=["l"])),
    ("3.0", "send(once=True)", "3.1", lambda client, session: session.send("q", key="k", once=True)),
    ("3.1", "list_sessions(labels=)", "3.2", lambda client, session: list(client.list_sessions(labels=["x"]))),
    *((v, "cancel()", "4.0", lambda client, session: session.cancel()) for v in ("3.0", "3.1", "3.2", "3.3")),
    ("3.3", "cancel()", "4.0", lambda client, session: session.stream("q").cancel()),
]


@pytest.mark.parametrize(("version", "feature", "needed", "call"), OLD_SERVERS)
def test_what_an_old_server_cannot_do_is_named(
    version: str, feature: str, needed: str, call: Callable[[Client, Session], object]
) -> None:
    """What else was to be changed, has been; and nothing was posted that the server would not understand."""
    with FakeServer(version) as server, Client(server.base_url) as client:
        server.agent("a")
        session = client.create_session("a")
        with pytest.raises(UnsupportedByServer) as told:
            call(client, session)
        assert f"{feature} needs Parlant {needed} or newer; this server is " in str(told.value)
        assert version in str(told.value).rpartition("this server is")[2]
        assert [info.id for info in client.list_sessions()] == [session.id]
        assert session.refresh().title == ("t" if "update" in feature else None)
        assert [e.message for e in session.history(kinds="message", sources="customer")] in ([], ["q"])
        assert "cancelled" not in [e.status for e in session.history()]


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


def test_once_needs_a_key(session: Session) -> None:
    with pytest.raises(ConfigurationError, match="once=True needs key="):
        session.send("q", once=True)
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


@pytest.mark.parametrize("interrupt", [True, False])
def test_of_calls_with_one_key_at_the_same_time_one_posts(interrupt: bool) -> None:
    """A page that repeats a request, a queue that delivers a task twice."""
    with FakeServer() as server, server.client() as client:
        server.agent("a").echoes()
        session = client.create_session("a")
        together = threading.Barrier(3)

        def send() -> str:
            together.wait(10)
            return session.send("m", key="k", once=True, interrupt=interrupt, timeout=20).text

        assert [call.result() for call in [in_background(send) for _ in range(3)]] == ["echo: m"] * 3
        assert len(session.history(kinds="message", sources="customer")) == 1
