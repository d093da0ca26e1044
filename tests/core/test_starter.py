"""What the calls of a session begin with: posting, noticing what the post tells, following."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.waiting import wait_until, within

from parlant_sync import (
    NotFoundError,
    ParlantSyncError,
    ServerError,
    Session,
    SessionClosed,
    TransportError,
    TurnTimeout,
)
from parlant_sync._deadline import Deadline
from parlant_sync._http.transport import Failure
from parlant_sync._turns import driver, other_turns
from parlant_sync.events import Event
from parlant_sync.testing import FakeServer

pytestmark = pytest.mark.parametrize("server", ["3.2"], indirect=True)


def test_a_trigger_after_the_numbering_went_back_is_followed(server: FakeServer, session: Session) -> None:
    """Its post is the first that tells; where the events seemed to end before it, its own never comes."""
    server.agent("a").replies("spoken")
    server.fill(session.id, 10)
    wait_until(lambda: session.health.next_offset == 10)
    server.wipe(session.id)
    assert session.trigger("greet them", timeout=5).text == "spoken"


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
@pytest.mark.parametrize("where", ["the gate", "the post"])
def test_an_interrupted_start_gives_its_place_to_the_next(
    session: Session, monkeypatch: pytest.MonkeyPatch, call: str, where: str
) -> None:
    """Also where its exception, and so its frames, are held: as in a notebook, which has ``sys.last_value``."""
    starter, checks = session._starter, [lambda: None, interrupt]
    if where == "the gate":
        check = starter.check
        starter.check = lambda: (checks.pop(0) if checks else check)()
    else:
        monkeypatch.setattr(starter.api, "create_event", lambda *_, **__: interrupt())
    with pytest.raises(KeyboardInterrupt) as held:
        session.stream("q") if call == "stream" else session.trigger("speak")
    monkeypatch.undo()
    assert session.send("next", timeout=5).text == "echo: next"
    assert held.traceback


def test_a_trigger_that_was_never_sent_is_not_followed(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no turn whose events could tell."""

    def unsent(*_: object, failure: Failure, **__: object) -> Event:
        failure.sent = False
        raise TransportError("refused")

    starter = session._starter
    monkeypatch.setattr(starter.api, "create_event", unsent)
    monkeypatch.setattr(other_turns, "TurnDriver", None)
    with pytest.raises(TransportError, match="refused"):
        session.trigger("speak")


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


def test_following_needs_an_open_session(session: Session) -> None:
    event = session.post("q")
    session.close()
    with pytest.raises(SessionClosed):
        session._opened.other_turns.follow(event, Deadline(5))


def test_a_numbering_that_went_back_is_polled_at_once(server: FakeServer, session: Session) -> None:
    """The poll under way waits for an offset that comes much later."""
    server.agent("a").ignores()
    server.fill(session.id, 10)
    wait_until(lambda: session.health.next_offset == 10)
    server.wait_polls(1)
    server.wipe(session.id)
    session.post("q")
    wait_until(lambda: session.health.next_offset == 1)


def test_a_trigger_whose_answer_is_lost_is_told_by_its_first_event(server: FakeServer, session: Session) -> None:
    """With guidelines no ``acknowledged`` announces it, and its trace was in the answer."""
    server.agent("a").replies("spoken")
    server.fail_next("POST /events", 502, stored=True)
    assert session.trigger("greet them", timeout=5).text == "spoken"


@pytest.mark.parametrize("guidelines", [(), ("greet them",)])
def test_a_trigger_out_of_time_tells_of_its_failed_request(
    server: FakeServer, session: Session, guidelines: tuple[str, ...]
) -> None:
    server.fail_next("POST /events", 500, b"Internal Server Error")
    with pytest.raises(TurnTimeout, match=r"the agent had not begun.*its request had failed: POST .*: 500") as caught:
        session.trigger(*guidelines, timeout=0.5)
    cause = caught.value.__cause__
    assert cause is not None
    assert isinstance(cause.__cause__, ServerError)  # each waiter raises a copy of its own


def test_a_trigger_that_failed_and_begins_no_turn_is_given_up_before_its_time(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_TRIGGER_BEGIN", 0.2)
    server.fail_next("POST /events", 500, b"Internal Server Error")
    with within(5), pytest.raises(ServerError):
        session.trigger(timeout=60)


def test_a_trigger_whose_turn_runs_does_not_tell_of_its_failed_request(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("spoken").after(30)
    server.fail_next("POST /events", 502, stored=True)
    with pytest.raises(TurnTimeout, match="the agent was still working") as caught:
        session.trigger("greet them", timeout=2)
    cause = caught.value.__cause__
    assert "502" not in str(caught.value)
    assert cause is not None
    assert cause.__cause__ is None


@pytest.mark.parametrize(("timeout", "raised"), [(60.0, TransportError), (0.1, TurnTimeout)])
def test_a_trigger_that_cannot_see_where_the_events_end(
    session: Session, monkeypatch: pytest.MonkeyPatch, timeout: float, raised: type[ParlantSyncError]
) -> None:
    """Out of time is only who has none left."""

    def unread(deadline: Deadline) -> int:
        raise TransportError("down")

    monkeypatch.setattr(session._starter, "latest", unread)
    with pytest.raises(raised) as caught:
        session.trigger(timeout=timeout)
    assert type(caught.value) is raised


def test_a_followed_message_that_was_deleted_is_not_answered_by_what_stands_in_its_place(
    server: FakeServer, session: Session
) -> None:
    server.agent("a").ignores()
    server.fill(session.id, 10)
    turn = session._opened.other_turns.follow(session.post("lost"), Deadline(0.3))
    server.agent("a").forget().replies("to another message")
    server.wipe(session.id)
    session.post("another")
    server.wait_idle()
    wait_until(lambda: 0 < session.health.next_offset == len(server.events(session.id)))
    with pytest.raises(TurnTimeout):
        turn.run()
