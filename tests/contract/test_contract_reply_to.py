"""A message that was posted is not lost: its turn can be waited for, or read, later and from elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support.contract_servers import parts
from support.contract_steps import is_writing, texts, wait_for
from support.waiting import Background, wait_until

from parlant_sync import Client, TurnTimeout

ELSEWHERE = """
import json, sys
from parlant_sync import Client
url, session_id, offset = sys.argv[1:]
with Client(url, turn_timeout=30) as client:
    session = client.session(session_id)
    event = session.history(int(offset))[0]
    print("READY", flush=True)
    reply = session.reply_to(event)
    print(json.dumps({"outcome": reply.outcome, "text": reply.text, "trace": reply.trace_id}))
"""


def test_after_post(server: Any, client: Client) -> None:
    session, gate = client.create_session(server.agents["quick"]), server.gate()
    event = session.post(server.script("quick", "posted", gate=gate))
    call = Background(session.reply_to, event)
    wait_for(session, is_writing)
    assert call.running
    server.release(gate)
    assert call.result().text == "echo: posted"
    assert call.result().request == event


def test_a_turn_that_is_over_is_read(server: Any, client: Client) -> None:
    """Any number of turns later, and any number of times."""
    session = client.create_session(server.agents["hesitant"])
    replies = [session.send(f"number {n}") for n in range(3)]
    for reply in replies:
        assert reply.request is not None
        again = session.reply_to(reply.request, timeout=10)
        assert (again.text, again.trace_id, again.outcome) == (reply.text, reply.trace_id, reply.outcome)
        assert [event.id for event in again.events] == [event.id for event in reply.events]


def test_after_a_turn_timeout(server: Any, client: Client) -> None:
    session, gate = client.create_session(server.agents["quick"]), server.gate()
    with pytest.raises(TurnTimeout) as caught:
        session.send(server.script("quick", "patience", gate=gate), timeout=server.moment)
    assert caught.value.event is not None
    server.release(gate)
    assert session.reply_to(caught.value.event).text == "echo: patience"


def test_several_wait_for_one_turn(server: Any, client: Client) -> None:
    session, gate = client.create_session(server.agents["quick"]), server.gate()
    event = session.post(server.script("quick", "popular", gate=gate))
    calls = [Background(session.reply_to, event) for _ in range(4)]
    server.release(gate)
    assert {call.result().text for call in calls} == {"echo: popular"}


def test_from_a_new_process(server: Any, client: Client) -> None:
    """The process that posted is gone; another one waits for the turn, and a third reads it when it is over."""
    session, gate = client.create_session(server.agents["hesitant"]), server.gate()
    event = session.post(server.script("hesitant", "carry on", gate=gate))
    session.close()
    command = [sys.executable, "-c", ELSEWHERE, server.base_url, session.id, str(event.offset)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "READY\n"
        server.release(gate)
        waited = json.loads(process.communicate(timeout=40)[0])
    assert process.returncode == 0
    read = subprocess.run(command, capture_output=True, text=True, timeout=40, check=True).stdout.splitlines()[-1]
    assert waited == json.loads(read)
    assert (waited["outcome"], waited["text"]) == ("answered", "echo: carry on")


def test_find_by_key(server: Any, client: Client, make_client: Callable[..., Client]) -> None:
    session = client.create_session(server.agents["quick"])
    assert session.find("order-17") is None
    event = session.post("with a key", key="order-17", metadata={"mine": 1})
    reply = session.send("with another", key="order-18")
    assert session.find("order-17") == event
    found = session.find("order-18")
    assert found is not None
    assert reply.request is not None
    assert found.offset == reply.request.offset
    assert session.find("order-19") is None
    server.needs("keeps_metadata", "drops the key: only who posted a message finds it (3.1 and newer keep it)")
    assert event.metadata["mine"] == 1
    elsewhere = make_client(server).session(session.id)
    found = elsewhere.find("order-17")
    assert found == event
    assert elsewhere.reply_to(found).text in ("echo: with a key", "echo: with another")


def test_out_of_time_tells_what_had_come(server: Any, client: Client) -> None:
    session, gate = client.create_session(server.agents["hesitant"]), server.gate()
    with pytest.raises(TurnTimeout) as caught:
        session.send(server.script("hesitant", "too slow", gate=gate), timeout=server.moment)
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert error.event is not None
    assert error.event.message is not None
    assert error.event.message.endswith("too slow")
    assert error.partial.text == ""
    assert len(error.partial.preambles) == int(server.splits)
    assert error.partial.trace_id
    # The turn is still running. The next message cancels it, or waits for it; its reply is the right one.
    call = Background(session.send, "quicker")
    wait_for(session, lambda event: event.message == "quicker")
    server.release(gate)
    assert call.result().text == "echo: quicker"
    assert session.send("and then").text == "echo: and then"


def test_out_of_time_in_the_middle_of_a_stream(server: Any, client: Client) -> None:
    server.needs("streams", "does not stream (3.2 and newer do)")
    session, middle = client.create_session(server.agents["streamer"]), server.gate()
    with pytest.raises(TurnTimeout) as caught:
        session.send(server.script("streamer", "one two three four", gate=middle, at="middle"), timeout=server.moment)
    so_far = caught.value.partial
    assert so_far.text
    assert "streamed echo of: one two three four".startswith(so_far.text)
    assert so_far.messages[0].is_partial
    server.release(middle)
    assert caught.value.event is not None
    assert session.reply_to(caught.value.event).text == "streamed echo of: one two three four"
    assert session.send(server.script("streamer", "five")).text == "streamed echo of: five"


def test_out_of_time_between_two_messages(server: Any, client: Client) -> None:
    """The partial reply has the first of them; ``reply_to()`` has all."""
    server.needs("splits", "answers in one message")
    session, between = client.create_session(server.agents["quick"]), server.gate()
    text = server.script("quick", "long", parts=4, between=between)
    with pytest.raises(TurnTimeout) as caught:
        session.send(text, timeout=server.moment)
    whole = parts("echo: long", 4)
    so_far = [message.message for message in caught.value.partial.messages]
    assert so_far
    assert so_far == whole[: len(so_far)]
    assert caught.value.partial.text == "\n\n".join(whole[: len(so_far)])
    server.release(between)
    assert caught.value.event is not None
    assert session.reply_to(caught.value.event).text == "\n\n".join(whole)
    wait_until(lambda: texts(session.history()) == whole)
