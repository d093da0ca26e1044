"""What the calls of a session begin with: posting, noticing what the post tells, following."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from parlant_sync import Client, Session, SessionClosed
from parlant_sync.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer("3.2") as server:
        server.agent("a")
        yield server


@pytest.fixture
def session(server: FakeServer) -> Iterator[Session]:
    with Client(server.base_url) as client:
        yield client.create_session("a")


def wait_for(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        threading.Event().wait(0.001)


def test_a_trigger_after_the_numbering_went_back_is_followed(server: FakeServer, session: Session) -> None:
    """Its post is the first that tells; where the events seemed to end before it, its own never comes."""
    server.agent("a").replies("spoken")
    server.fill(session.id, 10)
    wait_for(lambda: session.health.next_offset == 10)
    server.wipe(session.id)
    assert session.trigger("greet them", timeout=5).text == "spoken"


def test_closed_just_after_the_post_the_stream_does_not_begin(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = session._starter
    note_posted = starter.note_posted

    def closed_meanwhile(*arguments: Any, **named: Any) -> None:
        note_posted(*arguments, **named)
        session.close()

    monkeypatch.setattr(starter, "note_posted", closed_meanwhile)
    with pytest.raises(SessionClosed, match="was closed"):
        session.stream("q")


@pytest.mark.parametrize(
    "post",
    [lambda session: session.post("q"), lambda session: session.post_event("custom", {"x": 1})],
    ids=["post", "post_event"],
)
def test_a_post_that_went_well_ends_the_back_off(
    server: FakeServer, session: Session, post: Callable[[Session], object]
) -> None:
    session._poller._backoff = lambda attempt: 60.0
    server.wait_polls(1)
    server.fail_next(lambda request: request.waits, 502)
    server.add_event(session.id)  # ends the poll that waits; the next one fails
    wait_for(lambda: session.health.state == "waiting")
    post(session)
    wait_for(lambda: session.health.consecutive_failures == 0)
