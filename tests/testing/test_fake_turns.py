"""Scripts: what an agent can be told to do, and what of it is seen."""

from __future__ import annotations

import itertools

import pytest
from support.raw_api import Api, brief, in_background

START = ["acknowledged", "processing(Interpreting)", "typing"]
END = ["ready", "ready(completed)"]


def told(api: Api, *messages: str) -> list[list[str]]:
    """What comes after each message, in one session."""
    session = api.session()
    return [[brief(e) for e in api.turn(session, message)][1:] for message in messages]


def test_an_agent_without_a_script_echoes(api):
    assert told(api, "hi") == [[*START, "echo: hi", *END]]


def test_replies(api):
    api.server.agent("support").replies("Hello", then="How can I help?")
    assert told(api, "hi") == [[*START, "Hello", "ready", "typing", "How can I help?", *END]]


def test_several_texts(api):
    api.server.agent("support").replies("one", "two", then=["three", str.upper])
    (events,) = told(api, "hi")
    assert [e for e in events if "(" not in e and e not in ("ready", "typing", "acknowledged")] == [
        "one",
        "two",
        "three",
        "HI",
    ]


def test_turns_are_used_up_in_order_and_the_last_one_stays(api):
    api.server.agent("support").replies("one").stays_silent().replies("three")
    texts = [
        [e for e in events if e in ("one", "three") or "echo" in e] for events in told(api, "a", "b", "c", "d", "e")
    ]
    assert texts == [["one"], [], ["three"], ["three"], ["three"]]


def test_forget_and_echoes(api):
    agent = api.server.agent("support").replies("scripted").with_preamble()
    agent.forget()
    assert told(api, "hi") == [[*START, "echo: hi", *END]]
    agent.echoes("you said: ")
    assert told(api, "hi") == [[*START, "you said: hi", *END]]


def test_replies_needs_a_text(api):
    with pytest.raises(ValueError, match="stays_silent"):
        api.server.agent("support").replies()


def test_a_preamble(api):
    api.server.agent("support").replies("Yes.").with_preamble("Let me see...")
    preamble = ["acknowledged", "typing", "preamble:Let me see...", "ready", "processing(Interpreting)", "typing"]
    assert told(api, "hi") == [[*preamble, "Yes.", *END]]


def test_no_second_preamble_right_after_one(api):
    api.server.agent("support").with_preamble().stays_silent().replies("Yes.")
    first, second = told(api, "a", "b")
    assert "preamble:Hmm..." in first
    assert "preamble:Hmm..." not in second


def test_what_is_set_before_any_turn_holds_for_all(api):
    api.server.agent("support").with_preamble("Hm").replies("one").replies("two").with_preamble("Well")
    first, second = told(api, "a", "b")
    assert "preamble:Hm" in first
    assert "preamble:Well" in second


def test_tools(api):
    api.server.agent("support").with_tool("shop:stock", {"item": 1}, {"left": 3}).with_tool("shop:price").replies("3")
    session = api.session()
    events = api.turn(session, "how many?")
    tools = [e for e in events if e["kind"] == "tool"]
    assert [t["source"] for t in tools] == ["ai_agent", "ai_agent"]
    (call,) = tools[0]["data"]["tool_calls"]
    assert (call["tool_id"], call["arguments"], call["result"]["data"]) == ("shop:stock", {"item": 1}, {"left": 3})
    assert {t["trace_id"] for t in tools} == {events[1]["trace_id"]}


def test_a_tool_may_send_events_and_hand_over(api):
    emits = [{"status": "ready", "data": {"progress": 50}}, {"message": "three"}, {"custom": {"page": 1}}]
    agent = api.server.agent("support").replies("done").with_tool("shop:find", emits=emits, control={"mode": "manual"})
    agent.with_matches(guidelines=["g1"], journeys=["j1"], journey_states=["s1", "s2"])
    session = api.session()
    events = api.turn(session, "hi")
    shown = [brief(e) for e in events[3:9]]
    assert shown == ["processing(Considering tools)", "ready", "three", "custom", "tool", "processing(Interpreting)"]
    assert events[-1]["data"]["data"] == {
        "stage": "completed",
        "matched_guidelines": [{"id": "g1"}],
        "matched_journeys": [{"id": "j1"}],
        "matched_journey_states": [{"id": "s1"}, {"id": "s2"}],
    }
    assert api.server.sessions[session]["mode"] == "manual"
    assert [brief(e) for e in api.turn(session, "anyone?")] == ["customer:anyone?"]


def test_a_preamble_each_time(api):
    api.server.agent("support").with_preamble(always=True).stays_silent().replies("Yes.")
    for events in told(api, "a", "b"):
        assert "preamble:Hmm..." in events


BARE = ["acknowledged", "ready", "processing(Interpreting)"]
ARTICULATING = "processing(Articulating)"


@pytest.mark.parametrize(
    ("version", "mode", "how", "expected"),
    [
        ("3.3", "fluid", ("replies", "a", "b"), [*BARE, "typing", "a", "typing", "b", "ready(completed)"]),
        ("3.1", "fluid", ("replies", "a"), [*BARE, "typing", "a", "ready"]),
        ("3.3", "fluid", ("streams", "a b"), [*BARE, "typing", "a b", "ready(completed)"]),
        ("3.3", "fluid", ("fails",), [*BARE, "typing", "ready(completed)", "error"]),
        ("3.1", "fluid", ("stays_silent",), [*BARE, "typing", "ready"]),
        ("3.0", "strict", ("replies", "a"), [*BARE, ARTICULATING, "typing", "a", "ready", "ready"]),
        ("3.3", "strict", ("stays_silent",), [*BARE, *[ARTICULATING] * 3, "ready(completed)"]),
        ("3.3", "strict", ("fails",), [*BARE, *[ARTICULATING] * 3, "ready(completed)"]),
        ("3.3", "strict", ("hook_drops",), [*BARE, ARTICULATING, "typing", *END]),
        ("3.3", "composited", ("replies", "a"), [*START, "a", *END]),
    ],
)
def test_composition_modes(serve, version, mode, how, expected):
    api = serve(version)
    agent = api.server.agent("support", composition_mode=mode)
    getattr(agent, how[0])(*how[1:])
    assert told(api, "hi") == [expected]


def test_the_policy_decides_about_the_preamble(api):
    api.server.agent("support", composition_mode="fluid", preamble=False).echoes()
    assert told(api, "hi") == [["acknowledged", "processing(Interpreting)", "typing", "echo: hi", "ready(completed)"]]
    api.server.agent("sales", preamble=True)
    session = api.session("sales")
    assert [brief(e) for e in api.turn(session, "hi")][2:5] == ["typing", "preamble:Hmm...", "ready"]
    api.server.agent("law", composition_mode="strict").with_preamble("Let me see")
    assert brief(api.turn(api.session("law"), "hi")[3]) == "preamble:Let me see"


def test_an_agent_made_by_rest_is_fluid(serve):
    for version in ("3.0", "3.3"):
        api = serve(version)
        made = api.call("POST", "/agents", json={"name": "Ada", "description": "helps"})
        assert (made.status_code, made.json()["composition_mode"]) == (201, "fluid")
        assert api.call("GET", f"/agents/{made.json()['id']}").json() == made.json()
        events = [brief(e) for e in api.turn(api.session(made.json()["id"]), "hi")][1:]
        assert events == [*BARE, "typing", "echo: hi", "ready" if version == "3.0" else "ready(completed)"]


def test_an_agent_made_by_rest_may_be_of_another_kind(api):
    fields = {"name": "S", "id": "s", "composition_mode": "canned_fluid", "message_output_mode": "stream"}
    assert api.call("POST", "/agents", json=fields).json()["message_output_mode"] == "stream"
    assert api.call("POST", "/agents", json=fields).status_code == 500  # as Parlant, if the id is taken
    message = next(e for e in api.turn(api.session("s"), "hi") if "chunks" in e["data"])
    assert message["data"]["chunks"] == ["echo: ", "hi", None]
    fields = {"name": "T", "composition_mode": "strict_canned"}
    assert api.call("POST", "/agents", json=fields).json()["composition_mode"] == "strict_canned"
    assert api.call("POST", "/agents", json={"composition_mode": "x"}).status_code == 422


def test_what_contradicts_an_agent_is_refused(api):
    with pytest.raises(ValueError, match="'fluid', 'canned_fluid', 'strict', 'composited'; not 'odd'"):
        api.server.agent("support", composition_mode="odd")
    agent = api.server.agent("support", composition_mode="fluid")
    assert api.server.agent("support") is agent
    with pytest.raises(ValueError, match="exists already, as a fluid agent"):
        api.server.agent("support", composition_mode="strict")
    for write in (agent.with_preamble, agent.hook_drops):
        with pytest.raises(ValueError, match="a fluid agent"):
            write()


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda a: a.hook_answers("Closed."), ["acknowledged", "Closed."]),
        (lambda a: a.with_hook_message("Welcome.").replies("Hi"), ["acknowledged", "Welcome.", *START[1:], "Hi", *END]),
        (lambda a: a.hook_stops(), START[:2]),
        (lambda a: a.hook_drops(), [*START, *END]),
    ],
)
def test_hooks(api, write, expected):
    write(api.server.agent("support"))
    assert told(api, "hi") == [expected]


@pytest.mark.parametrize(("version", "often"), [("3.0", 1), ("3.1", 3), ("3.3", 3)])
def test_silence(serve, version, often):
    api = serve(version)
    api.server.agent("support").stays_silent()
    (events,) = told(api, "hi")
    assert events.count("typing") == often
    assert events[-1] == ("ready(completed)" if version == "3.3" else "ready")
    assert not any("hi" in e for e in events)


def test_ignored(api):
    api.server.agent("support").ignores().replies("back")
    first, second = told(api, "a", "b")
    assert first == []
    assert "back" in second


def test_a_failure_comes_after_the_last_ready(api):
    api.server.agent("support").fails("no model")
    session = api.session()
    events = api.turn(session, "hi")
    assert [brief(e) for e in events][1:] == ["acknowledged", "typing", "ready(completed)", "error"]
    assert "RuntimeError: no model" in events[-1]["data"]["data"]["exception"]
    assert events[-1]["trace_id"] == events[1]["trace_id"]


def test_a_failure_after_a_message(api):
    api.server.agent("support").fails(saying="So far so good").with_preamble()
    (events,) = told(api, "hi")
    assert events[-5:] == ["So far so good", "ready", "typing", "ready(completed)", "error"]


@pytest.mark.parametrize("version", ["3.0", "3.1", "3.3"])
def test_failures_elsewhere(serve, version):
    api = serve(version)
    api.server.agent("support").fails(at="match").fails(at="answer")
    match, answer = told(api, "a", "b")
    last = "ready(completed)" if version == "3.3" else "ready"
    thinking = ["processing(Interpreting)"] if version == "3.3" else []
    assert match == ["acknowledged", *thinking, last, "error"]
    error = ["error"] if version == "3.0" else []
    assert answer == ["acknowledged", *thinking, "typing", "typing", "typing", last, *error]


def test_a_failure_after_its_preamble(api):
    api.server.agent("support").fails(at="match").with_preamble("Hm")
    assert told(api, "a") == [
        ["acknowledged", "typing", "preamble:Hm", "ready", "processing(Interpreting)", "ready(completed)", "error"]
    ]


def test_a_failure_on_3_0(serve):
    api = serve("3.0")
    api.server.agent("support").fails()
    assert told(api, "hi") == [["acknowledged", "typing", "ready", "error"]]


def test_the_error_may_come_later(api):
    api.server.agent("support").fails().waits("error", at="error")
    session = api.session()
    api.send(session, "hi")
    api.server.reached("error")
    assert brief(api.events(session)[-1]) == "ready(completed)"
    api.server.release("error")
    api.server.wait_idle()
    assert brief(api.events(session)[-1]) == "error"


def test_emits(api):
    api.server.agent("support").emits(
        {"data": {"status": "acknowledged"}},
        {"kind": "message", "data": {"message": "odd"}, "metadata": {"m": 1}},
        {"kind": "hologram", "source": "oracle", "data": [1], "trace": "elsewhere"},
        {"data": {"status": "ready", "data": {"cost_control": {}}}},
    )
    session = api.session()
    events = api.turn(session, "hi")[1:]
    assert [(e["kind"], e["source"]) for e in events] == [
        ("status", "ai_agent"),
        ("message", "ai_agent"),
        ("hologram", "oracle"),
        ("status", "ai_agent"),
    ]
    assert [e["trace_id"] == events[0]["trace_id"] for e in events] == [True, True, False, True]
    assert events[1]["metadata"] == {"m": 1}


def test_traces(serve):
    main = serve()
    session = main.session()
    first, second = main.turn(session, "a"), main.turn(session, "b")
    assert first[0]["trace_id"] == second[0]["trace_id"] == "<main>"
    assert len({e["trace_id"] for e in first[1:]}) == len({e["trace_id"] for e in second[1:]}) == 1
    assert first[1]["trace_id"] != second[1]["trace_id"]

    shared = serve(traces="shared")
    events = shared.turn(shared.session(), "a")
    assert len({e["trace_id"] for e in events}) == 1
    assert len(events[0]["trace_id"]) == 32

    old = serve("3.0")
    events = old.turn(old.session(), "a")
    assert {e["correlation_id"] for e in events[1:]} == {events[0]["correlation_id"] + "::process"}


# --- time


def test_gates(api):
    api.server.agent("support").waits("answer").replies("one").replies("two", then="three").waits("then", at="then")
    session = api.session()
    api.send(session, "a")
    api.server.reached("answer")
    assert [brief(e) for e in api.events(session)][1:] == START
    api.server.release("answer", 1)
    api.server.wait_idle()
    api.send(session, "b")
    api.server.reached("answer")
    api.server.release("answer", 1)
    api.server.reached("then")
    assert [brief(e) for e in api.events(session)][-3:] == ["two", "ready", "typing"]
    api.server.release("then")
    api.server.wait_idle()
    assert [brief(e) for e in api.events(session)][-3:] == ["three", *END]


def test_a_gate_can_be_opened_before_and_shut_again(api):
    api.server.agent("support").waits("g")
    api.server.release("g")
    assert told(api, "a", "b") == [[*START, "echo: a", *END], [*START, "echo: b", *END]]
    api.server.shut("g")
    session = api.session()
    api.send(session, "c")
    api.server.reached("g")
    assert [brief(e) for e in api.events(session)][1:] == START
    api.server.release("g", 2)
    api.server.wait_idle()
    assert [brief(e) for e in api.events(session)][1:] == [*START, "echo: c", *END]
    # The second pass was kept for this one.
    assert [brief(e) for e in api.turn(session, "d")][1:] == [*START, "echo: d", *END]


def test_acknowledged_later(api):
    api.server.agent("support").waits("ack", at="acknowledge")
    session = api.session()
    api.send(session, "hi")
    api.server.reached("ack")
    assert len(api.events(session)) == 1
    api.server.release("ack")
    api.server.wait_idle()
    assert brief(api.events(session)[1]) == "acknowledged"


def test_after(api):
    api.server.agent("support").replies("x").after(0.2)
    session = api.session()
    events = api.turn(session, "hi")
    typing, message = (next(e for e in events if brief(e) == what) for what in ("typing", "x"))
    assert message["creation_utc"] > typing["creation_utc"]
    assert seconds(typing, message) >= 0.19


def test_paced(api):
    api.server.agent("support").replies("x").paced(0.05)
    events = api.turn(api.session(), "hi")
    assert all(seconds(one, two) >= 0.04 for one, two in itertools.pairwise(events[1:5]))


def seconds(one: dict, two: dict) -> float:
    return float(two["creation_utc"][17:-1]) - float(one["creation_utc"][17:-1]) % 60


def test_pause(api):
    session = api.session()
    api.server.pause()
    api.server.pause()
    api.send(session, "hi")
    assert [brief(e) for e in api.events(session)] == ["customer:hi", "acknowledged"]
    api.server.resume()
    api.server.wait_idle()
    assert brief(api.events(session)[-1]) == "ready(completed)"


def test_a_text_function_that_raises_is_an_engine_that_fails(api):
    def broken(message: str) -> str:
        raise RuntimeError(message)

    api.server.agent("support").replies(broken).replies("fine")
    first, second = told(api, "a", "b")
    assert first == [*START, "ready(completed)", "error"]
    assert "fine" in second
    (session,) = api.server.sessions
    error = next(e for e in api.server.events(session) if brief(e) == "error")
    assert "RuntimeError: a" in error["data"]["data"]["exception"]


def test_a_text_function_that_gives_no_text_is_an_engine_that_fails(api):
    api.server.agent("support").replies(lambda message: 5).replies(lambda message: "\ud800")
    session = api.session()
    for told in ("must be a text, not int", "lone surrogate"):
        events = api.turn(session, "hi")
        assert [brief(e) for e in events[-2:]] == ["ready(completed)", "error"]
        assert told in events[-1]["data"]["data"]["exception"]


# --- greetings and triggers


def test_a_greeting(api):
    api.server.agent("support").replies("Welcome")
    session = api.call("POST", "/sessions?allow_greeting=true", json={"agent_id": "support"}).json()["id"]
    api.server.wait_idle()
    assert [brief(e) for e in api.events(session)] == [*START, "Welcome", *END]


def trigger(api: Api, session: str, *guidelines: str):
    fields = {"guidelines": [{"action": g} for g in guidelines]} if guidelines else {}
    return api.post(session, kind="message", source="ai_agent", **fields)


@pytest.mark.parametrize("version", ["3.0", "3.3"])
def test_with_guidelines_the_post_gives_the_message(serve, version):
    api = serve(version)
    session = api.session()
    answer = trigger(api, session, "greet", "smile")
    assert answer.status_code == 201
    events = api.events(session)
    assert [brief(e) for e in events] == [
        "typing",
        "echo: greet; smile",
        "ready",
        "ready" if version == "3.0" else "ready(completed)",
    ]
    assert answer.json() == events[1]
    assert len({e["correlation_id"] for e in events}) == 1
    assert events[0]["correlation_id"].endswith("::utter") == (version == "3.0")


def test_with_guidelines_and_nothing_to_say(api):
    api.server.agent("support").stays_silent()
    session = api.session()
    answer = trigger(api, session, "greet")
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert [brief(e) for e in api.events(session)] == ["typing", "typing", "typing", "ready(completed)"]


def test_without_guidelines_the_turn_runs_and_the_post_fails(api):
    session = api.session()
    api.server.add_event(session)  # of <main>: what the server waits for
    answer = trigger(api, session)
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    api.server.wait_idle()
    assert [brief(e) for e in api.events(session)][1:] == [*START, "echo: (greeting)", *END]


def test_without_guidelines_the_post_may_be_held(api):
    session = api.session()
    post = in_background(trigger, api, session)
    api.server.wait_events(session, 6)
    api.server.wait_idle()
    assert post.running
    api.server.human(session, "of <main>, too")
    assert post.result().status_code == 500


@pytest.mark.parametrize(("version", "traces"), [("3.0", "main"), ("3.3", "shared")])
def test_without_guidelines_on_older_servers(serve, version, traces):
    api = serve(version, traces=traces)
    session = api.session()
    answer = trigger(api, session)
    assert answer.status_code == 201
    assert brief(answer.json()) == "acknowledged"
    api.server.wait_idle()


def test_a_trigger_in_manual_mode_does_nothing(api):
    session = api.session()
    api.server.set_mode(session, "manual")
    api.server.add_event(session)
    assert trigger(api, session).status_code == 500
    assert len(api.events(session)) == 1


# --- the session goes away


def test_a_session_deleted_in_a_turn(api):
    api.server.agent("support").waits("g")
    session = api.session()
    api.send(session, "hi")
    api.server.reached("g")
    api.server.delete_session(session)
    api.server.release("g")
    api.server.wait_idle()
    assert api.list(session).status_code == 404
