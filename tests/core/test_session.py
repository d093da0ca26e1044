"""The session itself: what is changed of it, how it ends, and what those hear who are inside of a call."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from parlant_sync import Client, InvalidRequestError, Session, SessionClosed
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
        ("3.0", {"metadata": {"x": 1}}, "does not keep metadata of sessions; Parlant does from 3.1 on"),
        ("3.1", {"labels": ["l"]}, "does not keep labels of sessions; Parlant does from 3.2 on"),
    ],
)
def test_an_old_server_keeps_less(version: str, wanted: dict[str, Any], told: str) -> None:
    """What else was to be changed, has been."""
    with FakeServer(version) as server, Client(server.base_url) as client:
        server.agent("a")
        session = client.create_session("a")
        with pytest.raises(InvalidRequestError, match=told):
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
