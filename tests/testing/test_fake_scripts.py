"""Which turn answers which message: order, sessions, conditions, humans; a client and clocks for tests."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import time

import pytest
from support.raw_api import Api, brief, in_background

import parlant_sync
from parlant_sync.testing import AgentScript


def answers(api: Api, session: str, *messages: str) -> list[str]:
    """The agent's or the human's messages to each of these, joined; an error as its status."""
    found = []
    for message in messages:
        events = api.turn(session, message)[1:]
        said = [e["data"]["message"] for e in events if e["kind"] == "message"]
        found.append("+".join(said) or brief(events[-1]))
    return found


def test_each_session_begins_at_the_first_turn(api):
    api.server.agent("support").replies("one").stays_silent().replies("three")
    visitors = [api.session(), api.session()]
    for number, answer in enumerate(["one", "ready(completed)", "three", "three"]):
        assert [answers(api, v, str(number)) for v in visitors] == [[answer], [answer]]


def test_one_script_for_all_sessions(api):
    api.server.agent("support", shared=True).replies("one").replies("two")
    assert [answers(api, api.session(), "x") for _ in range(3)] == [["one"], ["two"], ["two"]]


def test_a_turn_added_later_is_the_next_one(api):
    agent = api.server.agent("support").replies("one")
    session = api.session()
    assert answers(api, session, "a", "b") == ["one", "one"]
    agent.replies("two").replies("three")
    assert answers(api, session, "c", "d") == ["two", "three"]
    agent.forget()
    assert answers(api, session, "e") == ["echo: e"]


def test_when(api):
    agent = api.server.agent("support").with_preamble("Hm").replies("hello").replies("again")
    agent.when("refund").fails("no order").replies("paid back")
    agent.when(re.compile(r"^\d+$")).replies(lambda number: f"number {number}")
    agent.when(lambda text: len(text) > 20)
    session = api.session()
    assert answers(api, session, "hi", "A REFUND, please", "42", "now?", "refund 42", "and this is a long one") == [
        "Hm+hello", "error", "Hm+number 42", "Hm+again", "Hm+paid back", "Hm+echo: and this is a long one",
    ]  # fmt: skip
    assert answers(api, api.session(), "refund") == ["error"]  # the conditions' turns, too, are each session's own


def test_the_first_condition_that_holds_decides(api):
    agent = api.server.agent("support")
    agent.when("order").when("late").replies("sorry")
    agent.when("order").replies("never said")
    assert answers(api, api.session(), "my order is late", "my order") == ["sorry", "echo: my order"]


def test_a_condition_is_asked_about_messages_only(api):
    agent = api.server.agent("support").replies("Welcome")
    agent.when(lambda text: True).replies("for messages")
    session = api.call("POST", "/sessions?allow_greeting=true", json={"agent_id": "support"}).json()["id"]
    api.server.wait_idle()
    assert brief(api.events(session)[3]) == "Welcome"
    assert answers(api, session, "hi") == ["for messages"]


@pytest.mark.parametrize(("given", "error"), [(5, TypeError), ("\ud800", ValueError)])
def test_a_condition_must_be_a_text_a_pattern_or_a_function(api, given, error):
    with pytest.raises(error, match="condition"):
        api.server.agent("support").when(given)


def test_a_condition_that_raises_is_a_mistake_of_the_test(api):
    api.server.agent("support").when(lambda text: text.nothing)
    answer = api.post(api.session(), kind="message", source="customer", message="hi")
    assert (answer.status_code, "no attribute 'nothing'" in answer.json()["detail"]) == (500, True)


# --- humans


def test_a_human_answers_in_manual_mode(api):
    api.server.agent("support").echoes("agent: ")
    dana = api.server.human(name="Dana").replies("Dana here.", then="One moment.").replies("Done.")
    dana.when("refund").stays_silent()
    first, second = api.session(), api.session()
    assert answers(api, first, "hi") == ["agent: hi"]
    for session in (first, second):
        api.server.set_mode(session, "manual")
        assert answers(api, session, "anyone?", "and?") == ["Dana here.+One moment.", "Done."]
    assert [brief(e) for e in api.turn(first, "a refund")] == ["customer:a refund"]
    event = api.events(first)[-2]
    assert (event["source"], event["data"]["participant"]) == ("human_agent", {"id": None, "display_name": "Dana"})


def test_a_human_takes_time_and_may_speak_for_the_agent(api):
    api.server.agent("support")
    api.server.human(on_behalf=True).waits("typing").echoes("")
    session = api.session()
    api.server.set_mode(session, "manual")
    api.send(session, "hi")
    api.server.reached("typing")
    api.finish("typing")
    event = api.events(session)[-1]
    assert (event["source"], event["data"]["message"]) == ("human_agent_on_behalf_of_ai_agent", "hi")
    assert event["data"]["participant"] == {"id": "support", "display_name": "Support"}


def test_after_a_hand_over_the_human_answers(api):
    api.server.agent("support").with_tool("desk:call", control={"mode": "manual"}).replies("I fetch somebody.")
    api.server.human(name="Dana").replies("Dana here.")
    assert answers(api, api.session(), "help", "hello?") == ["I fetch somebody.", "Dana here."]


def test_a_human_needs_a_text_for_a_session(api):
    with pytest.raises(ValueError, match="needs a text"):
        api.server.human(api.session())


# --- a client, and clocks


def test_a_client_for_the_server(serve):
    api = serve(token="t")
    api.server.agent("support").replies("Hello")
    with api.server.client(turn_timeout=20) as client:
        assert client.create_session("support").send("hi").text == "Hello"
    assert api.server.requests[0].headers["authorization"] == "Bearer t"


@pytest.mark.parametrize("down", [True, False], ids=["stopped", "uncertain"])
def test_failures_take_no_time(api, down):
    api.server.agent("support")
    with api.server.client() as client:
        session = client.create_session("support")
        if down:
            api.server.stop()
        else:
            api.server.cut_next("POST /events", times=None)
        began = time.monotonic()
        with pytest.raises(parlant_sync.TransportError if down else parlant_sync.DeliveryUncertain):
            session.send("hi")
        assert time.monotonic() - began < 2


@pytest.mark.parametrize("package", ["freezegun", "time_machine"])
def test_it_runs_while_time_stands_still(package, tmp_path):
    """In a process of its own: the stand-in is imported while time is frozen, and nothing else must notice."""
    pytest.importorskip(package)
    freeze = "freezegun.freeze_time('2020-01-01')" if package == "freezegun" else "time_machine.travel(1e9, tick=False)"
    program = f"""
        import {package}
        with {freeze}:
            from parlant_sync.testing import FakeServer
            with FakeServer(pace=0.01) as server:
                server.agent("support").replies("Hello").after(0.05)
                with server.client() as client:
                    session = client.create_session("support")
                    print(session.send("hi").text)
                    server.wait_polls()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "Hello\n", done.stderr


def test_scripts_show_what_they_are(api):
    agent = api.server.agent("support").replies("a").replies("b")
    assert repr(agent) == "<agent 'support' with 2 scripted turns>"
    assert repr(api.server.human(name="Dana")) == "<human 'Dana' with 0 scripted turns>"
    assert isinstance(agent.when("x"), AgentScript)
    assert in_background(lambda: agent.next("s", "x")).result().texts  # a condition without turns echoes
