"""A streaming agent: the reply to its last word, in pieces as it is written, and by ``iter_events()`` whole, once."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from support.contract_steps import list_of, texts
from support.waiting import Background

from parlant_sync import AgentError, Client, Event, Session

TEXT = "one two three four five six"
WHOLE = f"streamed echo of: {TEXT}"


@pytest.fixture
def session(server: Any, client: Client) -> Session:
    server.needs("streams", "does not stream (3.2 and newer do)")
    return client.create_session(server.agents["streamer"])


def test_a_streamed_reply_to_the_last_word(server: Any, session: Session) -> None:
    for _ in range(3):
        reply = session.send(server.script("streamer", TEXT, pace=0.05))
        assert reply.text == WHOLE
        assert len(reply.messages) == 1
        assert not reply.messages[0].is_partial
        assert reply.messages[0].data["chunks"][-1] is None


def test_the_pieces_of_a_stream(server: Any, session: Session) -> None:
    """They come while the agent is still writing, and their sum is the reply."""
    middle = server.gate()
    with session.stream(server.script("streamer", TEXT, gate=middle, at="middle")) as turn:
        pieces = turn.text
        heard = [next(pieces)]
        # The agent has not written the rest yet: it waits in the middle of its answer.
        assert heard[0]
        assert WHOLE.startswith(heard[0])
        assert heard[0] != WHOLE
        server.release(middle)
        heard += pieces
        assert len(heard) > 1
        assert "".join(heard) == WHOLE == turn.reply().text
        assert turn.restarts == 0
        assert list(turn.text) == heard


def test_pieces_come_soon_after_the_server_stored_them(server: Any, session: Session) -> None:
    """Single events may be read here, so a chunk is given within half a second; a gate says when it is there."""
    with session.stream(server.script("streamer", TEXT, pace=0.3)) as turn:
        heard = list(turn.text)
    # Six words more than 0.3 s apart, read again every 0.2 s: they cannot have come in one or two lumps.
    assert len(heard) >= 4, heard
    assert "".join(heard) == WHOLE


def test_a_stream_that_breaks_is_an_agent_error(server: Any, session: Session) -> None:
    with pytest.raises(AgentError) as caught:
        session.send(server.script("streamer", TEXT, ends="break"))
    assert caught.value.detail or server.compass
    assert caught.value.partial.text
    assert WHOLE.startswith(caught.value.partial.text)
    assert session.send(server.script("streamer", "whole again")).text == "streamed echo of: whole again"


def test_leaving_a_stream_early_leaves_the_session(server: Any, session: Session) -> None:
    middle = server.gate()
    with session.stream(server.script("streamer", TEXT, gate=middle, at="middle")) as turn:
        next(turn.text)
    server.release(middle)
    assert turn.request is not None
    assert session.reply_to(turn.request).text == WHOLE
    assert session.send(server.script("streamer", "next")).text == "streamed echo of: next"


def test_iter_events_gives_a_streamed_message_whole_and_once(server: Any, session: Session) -> None:
    middle = server.gate()
    call = Background(_read_turn, session, partial=False)
    with session.stream(server.script("streamer", TEXT, gate=middle, at="middle")) as turn:
        next(turn.text)  # the message's event is stored, and it is not whole
        server.release(middle)
        turn.reply()
    events = call.result()
    answers = [event for event in events if event.kind == "message" and event.source == "ai_agent"]
    assert [event.message for event in answers] == [WHOLE], list_of(events)
    assert not answers[0].is_partial
    assert [event.offset for event in events] == list(range(len(events)))


def test_iter_events_partial_gives_it_as_it_grows(server: Any, session: Session) -> None:
    middle = server.gate()
    events: list[Event] = []
    with session.iter_events(since="beginning", timeout=20, partial=True) as reader:
        session.post(server.script("streamer", TEXT, gate=middle, at="middle"))
        for event in reader:
            events.append(event)
            if event.is_partial:
                server.release(middle)
            if event.stage == "completed":
                break
    grown = [event for event in events if event.kind == "message" and event.source == "ai_agent"]
    assert len(grown) >= 2, list_of(events)
    assert len({event.id for event in grown}) == 1
    said = texts(grown)
    for shorter, longer in pairwise(said):
        assert longer.startswith(shorter)
    assert grown[0].is_partial
    assert said[0] != WHOLE
    assert not grown[-1].is_partial
    assert said[-1] == WHOLE
    others = [event.offset for event in events if event not in grown]
    assert others == sorted(set(others))


def _read_turn(session: Session, *, partial: bool) -> list[Event]:
    events = []
    with session.iter_events(since="beginning", timeout=20, partial=partial) as reader:
        for event in reader:
            events.append(event)
            if event.stage == "completed":
                break
    return events
