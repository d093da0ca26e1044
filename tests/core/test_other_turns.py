"""Turns that no post of the same call begins: ``reply_to()``, ``trigger()``, ``next_turn()``."""

from __future__ import annotations

import threading

import pytest
from support.raw_api import in_background
from support.waiting import wait_until, within

from parlant_sync import (
    AgentError,
    Client,
    ConfigurationError,
    ParlantSyncError,
    ServerError,
    Session,
    SessionClosed,
    TransportError,
    TurnTimeout,
)
from parlant_sync._deadline import Deadline
from parlant_sync._http.transport import Failure
from parlant_sync._single_owner import SingleOwner
from parlant_sync._turns import driver, other_turns
from parlant_sync.events import Event
from parlant_sync.testing import FakeServer


def test_reply_to_a_message_of_another_session(server: FakeServer, client: Client, session: Session) -> None:
    """The same offset is another message there, or none at all."""
    other = client.create_session("a")
    session.send("here")
    for _ in range(2):
        theirs = other.post("there")
        server.wait_idle()
        with pytest.raises(ConfigurationError, match="does not hold"):
            session.reply_to(theirs, timeout=20)
        assert other.reply_to(theirs).text == "echo: there"


def test_reply_to_goes_on_where_the_message_cannot_be_looked_for(server: FakeServer, session: Session) -> None:
    posted = session.post("q")
    server.wait_idle()
    server.fail_next("GET /sessions/*/events/*", 503, times=5)
    assert session.reply_to(posted).text == "echo: q"


def test_following_needs_an_open_session(session: Session) -> None:
    event = session.post("q")
    session.close()
    with pytest.raises(SessionClosed):
        session._opened.other_turns.follow(event, Deadline(5))


@pytest.mark.parametrize("server", ["3.2"], indirect=True)  # it uses offsets again
def test_a_followed_message_that_was_deleted_is_not_answered_by_what_stands_in_its_place(
    server: FakeServer, session: Session
) -> None:
    server.agent("a").ignores()
    server.fill(session.id, 10)
    turn = session._opened.other_turns.follow(session.post("lost"), Deadline(1.0))
    wait_until(lambda: session.health.next_offset == 11)  # only what was polled tells of a new numbering
    server.agent("a").forget().replies("to another message")
    server.wipe(session.id)
    session.post("another")
    server.wait_idle()
    wait_until(lambda: 0 < session.health.next_offset == len(server.events(session.id)))
    with pytest.raises(TurnTimeout):
        turn.run()


# -- trigger


@pytest.mark.parametrize("server", ["3.2"], indirect=True)  # it uses offsets again
def test_a_trigger_after_the_numbering_went_back_is_followed(server: FakeServer, session: Session) -> None:
    """Its post is the first that tells; where the events seemed to end before it, its own never comes."""
    server.agent("a").replies("spoken")
    server.fill(session.id, 10)
    wait_until(lambda: session.health.next_offset == 10)
    server.wipe(session.id)
    assert session.trigger("greet them", timeout=5).text == "spoken"


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


@pytest.mark.slow
def test_a_trigger_whose_post_fails_is_judged_by_its_events(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("Proactive.")
    server.fail_next("POST /events", 500, b"Internal Server Error", stored=True)
    assert session.trigger().text == "Proactive."
    hold = server.hold_next("POST /events")
    with within(10):
        assert session.trigger().text == "Proactive."
    hold.release()


# -- the next turn


def test_the_next_turn_is_a_colleagues_message(server: FakeServer, client: Client, session: Session) -> None:
    server.set_mode(session.id, "manual")
    server.human(session.id, "Dana here.")
    assert (session.next_turn(timeout=10).outcome, session.next_turn.__name__) == ("human", "next_turn")
    session.post("mine", source="human_agent", participant={"display_name": "Me"})
    with pytest.raises(TurnTimeout):
        session.next_turn(timeout=0.2)


@pytest.mark.parametrize("server", ["3.0", "3.3"], indirect=True)  # 3.0 drops the keys
def test_a_message_whose_answer_is_late_is_not_of_the_next_turn(server: FakeServer, session: Session) -> None:
    """Its turn can be read before the post has returned."""
    server.fail_next("GET /agents", 404, b"{}", times=None)
    hold = server.hold_next("POST /events")
    sending = in_background(session.send, "ours", key="k")
    hold.wait()
    server.wait_idle()
    with pytest.raises(TurnTimeout):
        session.next_turn(timeout=0.3)
    hold.release()
    assert sending.result(10).text == "echo: ours"
    server.say(session.id, "theirs")
    assert session.next_turn(timeout=10).text == "echo: theirs"


@pytest.mark.parametrize("guidelines", [(), ("greet them",)])
def test_a_triggered_turn_whose_answer_is_late_is_not_the_next_turn(
    server: FakeServer, session: Session, guidelines: tuple[str, ...]
) -> None:
    server.agent("a").replies("spoken").echoes()
    hold = server.hold_next("POST /events")
    triggering = in_background(session.trigger, *guidelines)
    server.wait_events(session.id, 3)
    server.wait_idle()
    with pytest.raises(TurnTimeout):
        session.next_turn(timeout=0.3)
    hold.release()
    assert triggering.result(10).text == "spoken"
    server.say(session.id, "theirs")
    assert session.next_turn(timeout=10).text == "echo: theirs"


def test_none_of_very_many_turns_of_ours_is_the_next_turn(
    server: FakeServer, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("parlant_sync._api.posting._REMEMBERED", 4)
    monkeypatch.setattr(other_turns, "_FOLLOWED", 2)
    for number in range(6):
        session.send(f"q{number}")
    for _ in range(5):
        session.trigger("greet them")
    server.say(session.id, "theirs")
    assert session.next_turn(timeout=10).text == "echo: theirs"


def test_a_triggered_turn_is_not_the_next_turn(server: FakeServer, session: Session) -> None:
    for guidelines in (None, "speak"):
        assert session.trigger(guidelines, timeout=10).outcome == "answered"
    with pytest.raises(TurnTimeout):
        session.next_turn(timeout=0.2)


def test_a_failed_turn_is_the_next_turn_once(server: FakeServer, session: Session) -> None:
    server.agent("a").fails("boom")
    server.agent("a").replies("fine")
    for text in ("one", "two"):
        server.say(session.id, text)
        server.wait_idle()
    with pytest.raises(AgentError, match="boom"):
        session.next_turn(timeout=10)
    assert session.next_turn(timeout=10).text == "fine"


@pytest.mark.parametrize("server", ["3.2"], indirect=True)  # it uses offsets again
def test_the_next_turn_after_the_numbering_went_back(server: FakeServer, session: Session) -> None:
    """It is below where the next turn was looked for, in the old numbering."""
    server.fill(session.id, 50)
    server.say(session.id, "before")
    assert session.next_turn(timeout=10).text == "echo: before"
    server.wipe(session.id)
    session.send("ours")  # which tells
    server.say(session.id, "theirs")
    assert session.next_turn(timeout=10).text == "echo: theirs"
    with pytest.raises(TurnTimeout):
        session.next_turn(timeout=0.1)


@pytest.mark.parametrize("server", ["3.2"], indirect=True)  # it uses offsets again
def test_the_first_next_turn_after_the_numbering_went_back(server: FakeServer, client: Client) -> None:
    """The same for an object that began to read at the end of the old numbering."""
    session_id = server.create_session("a")
    server.fill(session_id, 50)
    session = client.session(session_id)
    session.send("one")
    server.wipe(session_id)
    session.send("two")
    server.say(session_id, "theirs")
    assert session.next_turn(timeout=10).text == "echo: theirs"


def test_an_interrupt_just_after_a_claim_does_not_keep_other_threads_out(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(claim: SingleOwner) -> bool:
        claim.by = {"thread": threading.get_ident()}
        raise KeyboardInterrupt

    with session.stream("q") as turn:
        with monkeypatch.context() as interrupts:
            interrupts.setattr(SingleOwner, "take", take)
            with pytest.raises(KeyboardInterrupt):
                session.next_turn()
            with pytest.raises(KeyboardInterrupt):
                turn.reply()
        assert in_background(turn.reply).result(10).text == "echo: q"
        with pytest.raises(TurnTimeout):
            in_background(lambda: session.next_turn(timeout=0.1)).result(10)


def test_the_next_turn_that_was_not_over_in_time_is_given_whole_later(server: FakeServer, session: Session) -> None:
    server.agent("a").replies("first", then="second").waits("g", at="then")
    server.say(session.id, "theirs")
    server.reached("g")
    with pytest.raises(TurnTimeout, match="still working"):
        session.next_turn(timeout=0.3)
    server.release("g")
    assert session.next_turn(timeout=10).text == "first\n\nsecond"
