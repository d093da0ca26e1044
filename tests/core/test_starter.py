"""What the calls of a session begin with: posting, noticing what the post tells, following."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.waiting import wait_until

from parlant_sync import (
    NotFoundError,
    ParlantSyncError,
    Session,
    SessionClosed,
    TransportError,
)
from parlant_sync.events import Event
from parlant_sync.testing import FakeServer

pytestmark = pytest.mark.parametrize("server", ["3.2"], indirect=True)


def test_closed_just_after_the_post_the_stream_tells_what_was_posted(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    starter = session._starter
    note_posted = starter.note_posted

    def closed_meanwhile(*arguments: Any, **named: Any) -> None:
        note_posted(*arguments, **named)
        session.close()

    monkeypatch.setattr(starter, "note_posted", closed_meanwhile)
    turn = session.stream("q")
    assert turn.request is not None
    assert turn.request.message == "q"
    with pytest.raises(SessionClosed, match="was closed"):
        turn.reply()


@pytest.mark.parametrize(
    "post",
    [lambda session: session.post("q"), lambda session: session.post_event("custom", {"x": 1})],
    ids=["post", "post_event"],
)
def test_a_post_that_went_well_ends_the_back_off(
    server: FakeServer, session: Session, post: Callable[[Session], object]
) -> None:
    session._opened.poller._backoff = lambda attempt: 60.0
    server.wait_polls(1)
    server.fail_next(lambda request: request.waits, 502)
    server.add_event(session.id)  # ends the poll that waits; the next one fails
    wait_until(lambda: session.health.state == "waiting")
    post(session)
    wait_until(lambda: session.health.consecutive_failures == 0)


class Hurried:
    """In the place of a session's ``delivery``: something happens just before each of its posts."""

    def __init__(self, session: Session, before: Callable[[], object]) -> None:
        self._given = session._starter.delivery
        self._before = before

    def post(self, message: str, **arguments: Any) -> tuple[Event, bool]:
        self._before()
        return self._given.post(message, **arguments)


def test_a_turn_that_begins_just_before_the_post_does_not_answer_it(server: FakeServer, session: Session) -> None:
    """Of another message; its events come after this one began to listen."""

    def other_turn() -> None:
        server.add_event(session.id, "status", {"status": "acknowledged", "data": {}}, trace="other")
        server.add_event(session.id, "status", {"status": "ready", "data": {"stage": "completed"}}, trace="other")

    session._starter.delivery = Hurried(session, other_turn)  # type: ignore[assignment]
    assert session.send("q", timeout=5).text == "echo: q"


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize("refusal", [NotFoundError("gone", status=404), TransportError("down")])
def test_a_post_that_fails_says_why_and_if_it_is_that_the_session_was_closed(
    session: Session, refusal: ParlantSyncError, closed: bool
) -> None:
    def refused() -> None:
        if closed:
            session.close()
        raise refusal

    session._starter.delivery = Hurried(session, refused)  # type: ignore[assignment]
    with pytest.raises(SessionClosed if closed else type(refusal), match="was closed" if closed else str(refusal)):
        session.stream("q")


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("call", ["stream", "trigger"])
@pytest.mark.parametrize("where", ["the feed", "the post"])
def test_an_interrupted_start_gives_its_place_to_the_next(
    session: Session, monkeypatch: pytest.MonkeyPatch, call: str, where: str
) -> None:
    """Also where its exception, and so its frames, are held: as in a notebook, which has ``sys.last_value``."""
    starter = session._starter
    if where == "the feed":
        monkeypatch.setattr(starter, "feed", lambda *_: interrupt())
    else:
        monkeypatch.setattr(starter.api, "create_event", lambda *_, **__: interrupt())
    with pytest.raises(KeyboardInterrupt) as held:
        session.stream("q") if call == "stream" else session.trigger("speak")
    monkeypatch.undo()
    assert session.send("next", timeout=5).text == "echo: next"
    assert held.traceback


def test_events_of_the_same_moment_as_the_last_are_not_of_a_new_numbering(server: FakeServer, session: Session) -> None:
    now = [1_700_000_000.0]
    server.set_clock(lambda: now[0])
    server.fill(session.id, 3)
    wait_until(lambda: session.health.next_offset == 3)
    with session.iter_events(since="latest", timeout=1) as reader:
        server.wipe(session.id, 2)
        now[0] += 1.0
        session.post("hello")
        assert next(reader).offset == 2


def test_a_numbering_that_went_back_is_polled_at_once(server: FakeServer, session: Session) -> None:
    """The poll under way waits for an offset that comes much later."""
    server.agent("a").ignores()
    server.fill(session.id, 10)
    wait_until(lambda: session.health.next_offset == 10)
    server.wait_polls(1)
    server.wipe(session.id)
    session.post("q")
    wait_until(lambda: session.health.next_offset == 1)
