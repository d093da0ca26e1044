"""Another client writes into the session while a turn is running.

Each caller gets the turn that answers its message: its own where that finished after all, else the newer one, which
answers both. No text of a cancelled turn is in either. Which of the two happens depends on the server's version and on
the moment; the event list tells which it was, and the replies have to agree with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.contract_servers import PREAMBLE, parts
from support.contract_steps import list_of, stored, texts, wait_for
from support.waiting import Background

from parlant_sync import Client, Event, Session


class Two:
    """The same session, opened by two clients."""

    def __init__(self, server: Any, make_client: Callable[..., Client], role: str) -> None:
        self.server = server
        self.one = make_client(server).create_session(server.agents[role])
        self.other = make_client(server).session(self.one.id)

    def interrupt(self, text: str, gate: str, *, silent: bool = False) -> Background[Any]:
        """The other client sends; when its message is stored, the older turn may go on. Its POST may wait for that.

        ``silent``: that turn has said nothing yet. A server that cancels it does so just after it has stored the
        message; the gate opens after both.
        """
        call = Background(self.other.send, text)
        stored(self.one, text)
        if silent and self.server.cancels:
            wait_for(self.one, lambda event: event.status == "cancelled")
        self.server.release(gate)
        return call

    def cancelled(self) -> set[str]:
        return {event.trace_id for event in self.one.history() if event.status == "cancelled"}


@pytest.fixture
def two(server: Any, make_client: Callable[..., Client]) -> Callable[[str], Two]:
    return lambda role: Two(server, make_client, role)


def acknowledged(session: Session) -> Event:
    return wait_for(session, lambda event: event.status == "acknowledged")


def check(two: Two, first: Any, second: Any, answers: tuple[str, str]) -> None:
    """The replies fit together with what the server did, whichever of the two it was."""
    history = list_of(two.one.history())
    left = two.cancelled()
    assert second.text == answers[1], history
    assert first.trace_id not in left, history
    assert second.trace_id not in left, history
    if left:
        assert (first.text, first.trace_id) == (second.text, second.trace_id), history
    elif first.trace_id == second.trace_id:
        assert first.text == second.text, history
    else:
        # An unhurried older turn sees the newer message as well, and may answer that (seen up to 3.1).
        assert first.text in answers, history


def test_a_turn_that_has_said_nothing_yet(server: Any, two: Callable[[str], Two]) -> None:
    """From 3.2 on it is cancelled, and one turn answers both messages; before, it goes on to its end."""
    both, gate = two("quick"), server.gate()
    first = Background(both.one.send, server.script("quick", "first", gate=gate, at="match"))
    acknowledged(both.one)
    second = both.interrupt("second", gate, silent=True)
    check(both, first.result(), second.result(), ("echo: first", "echo: second"))
    if server.cancels:
        assert len(both.cancelled()) == 1
        assert first.result().text == "echo: second"


def test_a_turn_between_its_messages_finishes(server: Any, two: Callable[[str], Two]) -> None:
    """It is the reply to its own message, complete; the newer message gets a turn of its own."""
    server.needs("splits", "answers in one message")
    both, gate = two("quick"), server.gate()
    first = Background(both.one.send, server.script("quick", "first", parts=3, between=gate))
    wait_for(both.one, lambda event: event.message == "echo: first")
    second = both.interrupt("second", gate)
    replies = first.result(), second.result()
    history = both.one.history()
    assert replies[1].text == "echo: second", list_of(history)
    if replies[0].trace_id == replies[1].trace_id:
        # 3.0 can just stop a turn between two of its messages, without a word (WIRE.md).
        assert server.version == (3, 0), list_of(history)
        assert replies[0].text == replies[1].text
    else:
        assert replies[0].text == "\n\n".join(parts("echo: first", 3)), list_of(history)
    assert both.one.send("third").text == "echo: third"


def test_the_preamble_of_a_cancelled_turn_is_in_neither_reply(server: Any, two: Callable[[str], Two]) -> None:
    """It is still being written when the turn is cancelled, and dribbles in among the newer turn's events."""
    both, gate = two("hesitant"), server.gate()
    first = Background(both.one.send, server.script("hesitant", "first", gate=gate, at="preamble"))
    acknowledged(both.one)
    second = both.interrupt("second", gate, silent=True)
    check(both, first.result(), second.result(), ("echo: first", "echo: second"))
    for reply in (first.result(), second.result()):
        # None where the other turn's stands last in the session, having come in just before: a server does not say two.
        assert [event.message for event in reply.preambles] in ([PREAMBLE], [])
        assert {event.trace_id for event in reply.events} == {reply.trace_id}


def test_a_stream_that_is_interrupted_goes_on_with_the_newer_answer(server: Any, two: Callable[[str], Two]) -> None:
    server.needs("streams", "does not stream (3.2 and newer do)")
    both, middle = two("streamer"), server.gate()
    with both.one.stream(server.script("streamer", "one two three four", gate=middle, at="middle")) as turn:
        pieces = turn.text
        heard = [next(pieces)]
        assert "streamed echo of: one two three four".startswith(heard[0])
        second = both.interrupt(server.script("streamer", "second"), middle)
        heard += pieces
        reply = turn.reply()
    answer = "streamed echo of: second"
    assert second.result().text == answer
    if both.cancelled():
        assert turn.restarts == 1
        assert reply.text == answer
        assert "".join(heard).endswith(answer)
    else:
        assert turn.restarts == 0
        assert reply.text == "".join(heard) == "streamed echo of: one two three four"


def test_the_answers_of_an_interrupted_conversation_stay_apart(server: Any, two: Callable[[str], Two]) -> None:
    """After an interruption both clients go on, each with its own answers."""
    both, gate = two("quick"), server.gate()
    first = Background(both.one.send, server.script("quick", "first", gate=gate, at="match"))
    acknowledged(both.one)
    both.interrupt("second", gate).result()
    first.result()
    for number in range(2):
        assert both.one.send(f"one {number}").text == f"echo: one {number}"
        assert both.other.send(f"other {number}").text == f"echo: other {number}"
    heard = texts(both.one.iter_events(timeout=0))
    assert heard[-4:] == ["echo: one 0", "echo: other 0", "echo: one 1", "echo: other 1"]
    assert heard == texts(both.one.history())


def test_post_interrupts_a_send_of_the_same_session(server: Any, client: Client) -> None:
    """``post()`` does not queue behind a running ``send()``; that gets the turn which answers both, or its own."""
    session, gate = client.create_session(server.agents["quick"]), server.gate()
    first = Background(session.send, server.script("quick", "first", gate=gate, at="match"))
    acknowledged(session)
    post = Background(session.post, "second")
    event = stored(session, "second")
    server.release(gate)
    assert post.result().offset == event.offset
    assert session.reply_to(event).text == "echo: second"
    assert first.result().text in (("echo: second",) if server.cancels else ("echo: first", "echo: second"))


def test_a_turn_that_finishes_holds_up_the_posts_of_all_sessions(server: Any, client: Client) -> None:
    """They are stored at once, and answered when that turn is over."""
    server.needs("splits", "answers in one message")
    if server.version == (3, 0):
        pytest.skip("Parlant 3.0 may stop a turn between its messages")
    session, other = (client.create_session(server.agents["quick"]) for _ in range(2))
    gate = server.gate()
    session.post(server.script("quick", "first", parts=2, between=gate))
    wait_for(session, lambda event: event.message == "echo: first")
    whole = parts("echo: first", 2)

    def post(at: Session, text: str) -> list[str]:
        at.post(text)
        return texts(session.history())

    second = Background(post, session, "second")
    stored(session, "second")
    elsewhere = Background(post, other, "elsewhere")
    stored(other, "elsewhere")
    server.release(gate)
    assert second.result()[:2] == elsewhere.result()[:2] == whole
