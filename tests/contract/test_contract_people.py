"""Turns that no customer's message starts: a human takes over, and the agent speaks by itself."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.contract_http import Traffic
from support.contract_matrix import HANDS_OVER
from support.contract_steps import is_writing, list_of, texts, wait_for
from support.waiting import Background

from parlant_sync import Client, ConfigurationError, TurnTimeout


@pytest.mark.parametrize("on_behalf", [False, True], ids=["as themselves", "on behalf of the agent"])
def test_a_human_takes_over_in_manual_mode(server: Any, client: Client, on_behalf: bool) -> None:
    server.needs("hands_over", "runs turns in manual mode too")
    session = client.create_session(server.agents["quick"])
    assert session.send("hello").text == "echo: hello"
    session.update(mode="manual")
    assert session.mode == "manual"
    call = Background(session.send, "is anybody there?")
    wait_for(session, lambda event: event.message == "is anybody there?")
    server.human(session.id, "Dana here. How can I help?", on_behalf=on_behalf)
    reply = call.result()
    assert (reply.outcome, reply.text) == ("human", "Dana here. How can I help?")
    assert reply.messages[0].source == ("human_agent_on_behalf_of_ai_agent" if on_behalf else "human_agent")
    assert not on_behalf or reply.messages[0].participant["id"] == session.agent_id
    session.update(mode="auto")
    reply = session.send("thank you")
    assert (reply.outcome, reply.text) == ("answered", "echo: thank you")


def test_nobody_answers_in_manual_mode(server: Any, client: Client) -> None:
    server.needs("hands_over", "runs turns in manual mode too")
    session = client.create_session(server.agents["quick"])
    session.update(mode="manual")
    with pytest.raises(TurnTimeout, match="in manual mode and no human has answered") as caught:
        session.send("hello?", timeout=1)
    assert caught.value.partial.text == ""
    assert caught.value.event is not None
    # The human comes later, and is the answer to that message all the same.
    server.human(session.id, "Sorry to keep you waiting")
    reply = session.reply_to(caught.value.event)
    assert (reply.outcome, reply.text) == ("human", "Sorry to keep you waiting")


def test_a_tool_hands_over_and_a_colleague_answers(server: Any, client: Client, make_client: Any) -> None:
    server.needs("hands_over", "runs turns in manual mode too")
    session = client.create_session(server.matrix_agent("sdk-prompt-block", {"help": {"behaviour": HANDS_OVER}}))
    assert session.mode == "auto"
    assert session.send(f"{HANDS_OVER.directive} help" if server.kind == "real" else "help").text == "echo: help"
    assert session.mode == "manual"  # the tool's result said so; nothing was asked
    assert session.refresh().mode == "manual"
    desk = make_client(server).session(session.id)
    call = Background(session.send, "is anybody there?")
    wait_for(desk, lambda event: event.message == "is anybody there?")
    posted = desk.post("Dana here.", source="human_agent", participant={"display_name": "Dana"})
    assert (posted.source, posted.participant["display_name"]) == ("human_agent", "Dana")
    assert (call.result().outcome, call.result().text) == ("human", "Dana here.")
    behalf = desk.post("Still Dana.", source="human_agent_on_behalf_of_ai_agent", participant={"display_name": "Dana"})
    assert behalf.source == "human_agent_on_behalf_of_ai_agent"
    with pytest.raises(ConfigurationError, match="display_name"):
        desk.post("Who?", source="human_agent")
    assert texts(session.history(), "human_agent") == ["Dana here."]


def test_the_next_turn_is_a_greeting_then_another_clients(server: Any, client: Client, make_client: Any) -> None:
    server.needs("utters", "neither greets nor speaks as guidelines say")
    session = client.create_session(server.agents["hesitant"], allow_greeting=True)
    greeting = session.next_turn()
    assert (greeting.text, greeting.request) == ("echo: (greeting)", None)
    assert make_client(server).session(session.id).send("from elsewhere").text == "echo: from elsewhere"
    assert session.next_turn().text == "echo: from elsewhere"
    assert session.send("mine").text == "echo: mine"


def test_the_next_turn_is_what_the_agent_says_by_itself(server: Any, client: Client, make_client: Any) -> None:
    server.needs("utters", "neither greets nor speaks as guidelines say")
    session = client.create_session(server.agents["quick"])
    assert session.send("hello").text == "echo: hello"
    waits = Background(session.next_turn)
    server.speaks("quick", "as asked: mention the offer")
    assert make_client(server).session(session.id).trigger("mention the offer").text == "as asked: mention the offer"
    assert waits.result().text == "as asked: mention the offer"


def test_deleted_events_are_gone_and_the_session_goes_on(server: Any, client: Client) -> None:
    session = client.create_session(server.agents["quick"])
    kept = session.send("keep this")
    turn = session.send("delete the answer")
    assert turn.request is not None
    # The server deletes from the first event of a trace on; on 4.0, that is the customer's message.
    end = turn.request.offset if server.compass else turn.events[0].offset
    session.delete_events(end)
    assert [event.offset for event in session.history()] == list(range(end))
    assert session.send("and on").text == "echo: and on"
    assert kept.request is not None
    assert session.reply_to(kept.request).text == "echo: keep this"


def test_what_attaching_costs(server: Any, make_client: Any) -> None:
    """One request for an attached session, none more for its history than one; no thread; any length."""
    session = make_client(server).create_session(server.agents["quick"])
    session.send("hello")
    traffic, before = Traffic(), threading.active_count()
    client = make_client(server, session_factory=traffic)
    assert texts(client.history(session.id)) == ["echo: hello"]
    assert len(traffic.requests) == 1
    attached = client.session(session.id)
    assert len(traffic.requests) == 2
    assert texts(attached.history()) == ["echo: hello"]
    assert len(traffic.requests) == 3
    assert threading.active_count() == before


def test_a_human_while_the_agent_answers_is_not_the_reply(server: Any, client: Client) -> None:
    session, gate = client.create_session(server.agents["quick"]), server.gate()
    reader = session.iter_events(timeout=20)
    call = Background(session.send, server.script("quick", "question", gate=gate))
    wait_for(session, is_writing)
    server.human(session.id, "I am listening in")
    server.release(gate)
    reply = call.result()
    assert reply.outcome == "answered"
    # What the agent makes of it is its business: from some version on it sees the human's words before it answers.
    assert "I am listening in" not in [message.message for message in reply.messages]
    assert "I am listening in" in [event.message for event in _until_ready(reader, reply.trace_id)]


def test_a_proactive_message_with_guidelines(server: Any, client: Client) -> None:
    server.needs("utters", "neither greets nor speaks as guidelines say")
    session = client.create_session(server.agents["quick"])
    assert session.send("hello").text == "echo: hello"
    server.speaks("quick", "as asked: mention the offer")
    reply = session.trigger("mention the offer")
    assert (reply.outcome, reply.text) == ("answered", "as asked: mention the offer")
    assert reply.request is None
    assert reply.trace_id
    assert session.send("thanks").text == "echo: thanks"
    seen = list(session.iter_events(timeout=0))
    assert texts(seen) == ["echo: hello", "as asked: mention the offer", "echo: thanks"]
    assert [event.offset for event in seen] == [event.offset for event in session.history()], list_of(seen)


def test_a_proactive_message_without_guidelines(server: Any, client: Client) -> None:
    """The server may answer 500, or keep the POST for a minute: the turn runs all the same, and is what counts."""
    session = client.create_session(server.agents["quick"])
    assert session.send("hello").text == "echo: hello"
    server.speaks("quick", "proactive message")
    reply = session.trigger()
    assert (reply.outcome, reply.text) == ("answered", "proactive message")
    assert reply.duration < 20
    assert session.send("thanks").text == "echo: thanks"
    seen = list(session.iter_events(timeout=0))
    assert texts(seen) == ["echo: hello", "proactive message", "echo: thanks"]
    assert [event.offset for event in seen] == [event.offset for event in session.history()], list_of(seen)


def test_the_agent_opens_the_conversation(server: Any, client: Client) -> None:
    """The first event of the session is the agent's: nothing was ever posted."""
    server.needs("utters", "neither greets nor speaks as guidelines say")
    session = client.create_session(server.agents["quick"])
    server.speaks("quick", "as asked: welcome them")
    assert session.trigger(["welcome them"]).text == "as asked: welcome them"
    assert session.send("hello").text == "echo: hello"


def test_a_proactive_message_in_an_untouched_session(server: Any, client: Client) -> None:
    """Where nothing was ever posted the server keeps the POST for a minute; nobody waits for that."""
    server.speaks("hesitant", "echo: (greeting)")
    session = client.create_session(server.agents["hesitant"])
    reply = session.trigger()
    assert (reply.outcome, reply.text) == ("answered", "echo: (greeting)")
    assert reply.duration < 20
    assert session.send("hello").text == "echo: hello"
    assert texts(session.iter_events(timeout=0, kinds="message"))[-1] == "echo: hello"


def test_a_greeting(server: Any, client: Client) -> None:
    server.needs("utters", "neither greets nor speaks as guidelines say")
    session = client.create_session(server.agents["hesitant"], allow_greeting=True)
    said = session.iter_events(timeout=20, kinds="message", sources="ai_agent")
    greeting = next(event for event in said if not event.is_preamble)
    assert greeting.message == "echo: (greeting)"
    assert session.send("hello").text == "echo: hello"


def test_a_trigger_takes_its_turn(server: Any, client: Client) -> None:
    """It waits for a ``send()`` that is running, as another ``send()`` would."""
    server.needs("utters", "neither greets nor speaks as guidelines say")
    session, gate = client.create_session(server.agents["quick"]), server.gate()
    first = Background(session.send, server.script("quick", "first", gate=gate))
    wait_for(session, is_writing)
    server.speaks("quick", "as asked: say more")
    second = Background(session.trigger, "say more")
    server.release(gate)
    assert first.result().text == "echo: first"
    assert second.result().text == "as asked: say more"
    assert not [event for event in session.history() if event.status == "cancelled"]


def test_a_trigger_that_ends_without_a_message(server: Any, client: Client) -> None:
    """The server answers the POST with a 500; the events say that the turn was run and is over."""
    server.needs("utters", "neither greets nor speaks as guidelines say")
    session = client.create_session(server.agents["quick"])
    assert session.send("hello").text == "echo: hello"
    reply = session.trigger(server.script("quick", "say nothing", ends="silent"), timeout=6)
    assert (reply.outcome, reply.text) == ("empty", "")
    assert session.send("again").text == "echo: again"


def _until_ready(reader: Any, trace: str) -> list[Any]:
    events = []
    for event in reader:
        events.append(event)
        if event.trace_id == trace and event.status == "ready" and texts(events):
            break
    return events
