"""One session, one turn after the other: each reply is the whole answer to its message, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.contract_servers import BOOM, PREAMBLE, TALKS, parts
from support.contract_steps import list_of, texts
from support.waiting import Background

from parlant_sync import AgentError, Client, Session


def test_one_message(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    reply = session.send("hello there")
    assert reply.text == str(reply) == "echo: hello there"
    assert reply.outcome == "answered"
    assert [m.message for m in reply.messages] == ["echo: hello there"]
    assert reply.request is not None
    assert reply.request.message == "hello there"
    assert reply.trace_id
    assert {event.trace_id for event in reply.events} == {reply.trace_id}
    assert reply.duration > 0
    assert session.agent_status == "ready"


def test_ten_turns_in_one_session(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    replies = [session.send(f"number {n}") for n in range(10)]
    assert [reply.text for reply in replies] == [f"echo: number {n}" for n in range(10)]
    assert len({reply.trace_id for reply in replies}) == 10
    # The same poller saw all of it: nothing is missing, nothing came twice.
    seen = list(session.iter_events(timeout=0))
    assert [event.offset for event in seen] == [event.offset for event in session.history()], list_of(seen)
    assert texts(seen) == [reply.text for reply in replies]


def test_both_agents_side_by_side(servers: Callable[[str], Any], make_client: Callable[..., Client]) -> None:
    """Two servers on two ports, a conversation with another agent on each, turn by turn at the same time."""
    research, welfare = servers("main"), servers("production")
    assert research.base_url != welfare.base_url
    together = threading.Barrier(2, timeout=30)

    def converse(server: Any, role: str) -> list[str]:
        session = make_client(server).create_session(server.agents[role])
        heard = []
        for question, _ in TALKS[role]:
            together.wait()
            heard.append(session.send(question).text)
        return heard

    calls = [Background(converse, research, "research"), Background(converse, welfare, "welfare")]
    for call, role in zip(calls, ("research", "welfare"), strict=True):
        for heard, (question, expected) in zip(call.result(), TALKS[role], strict=True):
            assert expected in heard, question


def test_the_preamble_is_no_part_of_the_reply(server: Any, client: Client) -> None:
    server.needs("splits", "answers in one message, without a preamble")
    session = client.create_session(server.agents["hesitant"])
    for text in ("first", "second"):
        reply = session.send(text)
        assert reply.text == f"echo: {text}"
        assert [event.message for event in reply.preambles] == [PREAMBLE]
        assert all(event.is_preamble for event in reply.preambles)
        assert not any(event.is_preamble for event in reply.messages)


def test_three_messages_make_one_reply(server: Any, client: Client) -> None:
    server.needs("splits", "answers in one message, without a preamble")
    session = client.create_session(server.agents["quick"])
    reply = session.send(server.script("quick", "long one", parts=3))
    assert [message.message for message in reply.messages] == parts("echo: long one", 3)
    assert reply.text == "\n\n".join(parts("echo: long one", 3))
    assert session.send("and then").text == "echo: and then"


def test_stream_gives_the_messages_of_a_turn_one_by_one(server: Any, client: Client) -> None:
    """An agent that does not stream: its pieces are its messages, and the first is there before the last is written."""
    server.needs("splits", "answers in one message, without a preamble")
    session = client.create_session(server.agents["quick"])
    between = server.gate()
    with session.stream(server.script("quick", "long one", parts=3, between=between)) as turn:
        pieces = turn.text
        first = next(pieces)
        assert first == "echo: long one"
        assert "third part" not in texts(session.history())
        server.release(between)
        assert [first, *pieces] == ["echo: long one", "\n\nsecond part", "\n\nthird part"]
        assert turn.reply().text == "\n\n".join(parts("echo: long one", 3))


def test_the_events_of_a_turn(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["hesitant"])
    with session.stream("look") as turn:
        events = list(turn)
    assert [event.offset for event in events] == sorted({event.offset for event in events})
    assert tuple(events) == turn.reply().events
    assert events[0].status == "acknowledged"
    assert events[-1].status == "ready"
    assert texts(events) == [*([PREAMBLE] if server.splits else []), "echo: look"]


def test_an_empty_turn(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    reply = session.send(server.script("quick", "say nothing", ends="silent"))
    assert (reply.outcome, reply.text, reply.messages) == ("empty", "", ())
    assert session.send("and now").text == "echo: and now"


@pytest.mark.parametrize("role", ["quick", "hesitant"])
def test_an_engine_error_and_a_clean_turn_after_it(server: Any, client: Client, role: str) -> None:
    session = client.create_session(server.agents[role])
    with pytest.raises(AgentError) as caught:
        session.send(server.script(role, "please fail", ends="fail"))
    assert BOOM in (BOOM if server.compass else caught.value.detail)  # Compass keeps the reason to itself
    assert caught.value.partial.text == ""
    for text in ("after it", "and again"):
        reply = session.send(text)
        assert (reply.outcome, reply.text) == ("answered", f"echo: {text}")


def test_each_error_is_raised_by_its_own_turn(server: Any, client: Client) -> None:
    """The error comes after the turn's last event: the next message must not be blamed for it."""
    session = client.create_session(server.agents["quick"])
    outcomes = [_outcome(server, session, number) for number in range(4)]
    assert outcomes == ["AgentError", "echo: message 1", "AgentError", "echo: message 3"]


def _outcome(server: Any, session: Session, number: int) -> str:
    text = f"message {number}"
    try:
        return session.send(text if number % 2 else server.script("quick", text, ends="fail")).text
    except AgentError as error:
        return type(error).__name__
