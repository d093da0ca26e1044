"""Scripts: what an agent can be made to do. Turns that were recorded of real servers are in test_fake_traces.py."""

from __future__ import annotations

import itertools

import pytest
from support.raw_api import Api, brief, in_background

START = ["acknowledged", "processing(Interpreting)", "typing"]
END = ["ready", "ready(completed)"]
PREAMBLE = ["acknowledged", "typing", "preamble:Hm", "ready", "processing(Interpreting)"]
BARE = ["acknowledged", "ready", "processing(Interpreting)"]
FAILED = ["ready(completed)", "error"]
ARTICULATING = "processing(Articulating)"


def seen(api: Api, *messages: str) -> list[list[str]]:
    """What comes after each message, in one session."""
    session = api.session()
    return [[brief(e) for e in api.turn(session, message)][1:] for message in messages]


def broken(message: str) -> str:
    raise RuntimeError(f"no {message}")


TURNS = [
    # (version, script, what comes)
    ("3.3", lambda a: a, [*START, "echo: hi", *END]),
    ("3.3", lambda a: a.echoes("you said: "), [*START, "you said: hi", *END]),
    ("3.3", lambda a: a.replies("x").with_preamble().forget(), [*START, "echo: hi", *END]),
    (
        "3.1",
        lambda a: a.replies("a", then=[str.upper]),
        [START[0], "typing", "a", "ready", "typing", "HI"] + ["ready"] * 2,
    ),
    ("3.3", lambda a: a.ignores(), []),
    # failures
    ("3.3", lambda a: a.fails(at="match"), [*START[:2], *FAILED]),
    ("3.3", lambda a: a.fails(at="match").with_preamble("Hm"), [*PREAMBLE, *FAILED]),
    ("3.3", lambda a: a.fails(at="answer"), [*START, *["typing"] * 2, "ready(completed)"]),
    ("3.0", lambda a: a.fails(at="answer"), ["acknowledged", *["typing"] * 3, "ready", "error"]),
    ("3.3", lambda a: a.fails(saying="a"), [*START, "a", "ready", "typing", *FAILED]),
    ("3.3", lambda a: a.replies(broken), [*START, *FAILED]),
    ("3.3", lambda a: a.replies(lambda message: 5), [*START, *FAILED]),
    ("3.3", lambda a: a.replies(lambda message: "\ud800"), [*START, *FAILED]),
]


@pytest.mark.parametrize(("version", "write", "expected"), TURNS)
def test_turns(serve, version, write, expected):
    api = serve(version)
    write(api.server.agent("support"))
    assert seen(api, "hi") == [expected]


@pytest.mark.parametrize(
    ("version", "mode", "how", "expected"),
    [
        ("3.3", "fluid", ("replies", "a", "b"), [*BARE, "typing", "a", "typing", "b", "ready(completed)"]),
        ("3.3", "fluid", ("streams", "a b"), [*BARE, "typing", "a b", "ready(completed)"]),
        ("3.3", "fluid", ("fails",), [*BARE, "typing", *FAILED]),
        ("3.3", "strict", ("stays_silent",), [*BARE, *[ARTICULATING] * 3, "ready(completed)"]),
        ("3.3", "strict", ("fails",), [*BARE, *[ARTICULATING] * 3, "ready(completed)"]),
        ("3.3", "strict", ("hook_drops",), [*BARE, ARTICULATING, "typing", *END]),
    ],
)
def test_composition_modes(serve, version, mode, how, expected):
    api = serve(version)
    getattr(api.server.agent("support", composition_mode=mode), how[0])(*how[1:])
    assert seen(api, "hi") == [expected]


def test_the_policy_decides_about_the_preamble(api):
    api.server.agent("support", composition_mode="fluid", preamble=False)
    assert seen(api, "hi") == [[*START, "echo: hi", "ready(completed)"]]
    api.server.agent("sales", preamble=True)
    assert [brief(e) for e in api.turn(api.session("sales"), "hi")][2:5] == ["typing", "preamble:Hmm...", "ready"]
    api.server.agent("law", composition_mode="strict").with_preamble("Let me see")
    assert brief(api.turn(api.session("law"), "hi")[3]) == "preamble:Let me see"


def test_no_second_preamble_right_after_one(api):
    api.server.agent("support").with_preamble("Hm").stays_silent().replies("a")
    api.server.agent("support").replies("b").with_preamble("Well", always=True)
    first, second, third, fourth = seen(api, *"abcd")
    assert [("preamble:Hm" in first), ("preamble:Hm" in second)] == [True, False]
    assert "preamble:Well" in third
    assert "preamble:Well" in fourth


def test_an_agent_made_by_rest_may_be_of_another_kind(api):
    fields = {"name": "S", "id": "s", "composition_mode": "canned_fluid", "message_output_mode": "stream"}
    assert api.call("POST", "/agents", json=fields).json()["message_output_mode"] == "stream"
    assert api.call("POST", "/agents", json=fields).status_code == 500  # as Parlant, if the id is taken
    message = next(e for e in api.turn(api.session("s"), "hi") if "chunks" in e["data"])
    assert message["data"]["chunks"] == ["echo: ", "hi", None]
    fields = {"name": "T", "composition_mode": "strict_canned"}
    assert api.call("POST", "/agents", json=fields).json()["composition_mode"] == "strict_canned"
    made = api.call("POST", "/agents", json={"name": "Ada", "description": "helps"}).json()
    assert (made["composition_mode"], api.call("GET", f"/agents/{made['id']}").json()) == ("fluid", made)
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


def test_tools(api):
    agent = api.server.agent("support").with_tool("shop:stock", {"item": 1}, {"left": 3}).replies("done")
    emits = [{"status": "ready", "data": {"progress": 50}}, {"message": "three"}, {"custom": {"page": 1}}]
    agent.with_tool("shop:find", emits=emits, control={"mode": "manual"})
    agent.with_matches(guidelines=["g1"], journeys=["j1"], journey_states=["s1", "s2"])
    session = api.session()
    events = api.turn(session, "hi")
    calling = "processing(Considering tools)"
    assert [brief(e) for e in events[2:-4]] == [
        *["processing(Interpreting)", calling, "tool"],
        *["processing(Interpreting)", calling, "ready", "three", "custom", "tool", "processing(Interpreting)"],
    ]
    (call,) = events[4]["data"]["tool_calls"]
    assert (call["tool_id"], call["arguments"], call["result"]["data"]) == ("shop:stock", {"item": 1}, {"left": 3})
    assert {e["trace_id"] for e in events[1:]} == {events[1]["trace_id"]}
    assert events[-1]["data"]["data"] == {
        "stage": "completed",
        "matched_guidelines": [{"id": "g1"}],
        "matched_journeys": [{"id": "j1"}],
        "matched_journey_states": [{"id": "s1"}, {"id": "s2"}],
    }
    assert api.server.sessions[session]["mode"] == "manual"
    assert [brief(e) for e in api.turn(session, "anyone?")] == ["customer:anyone?"]


def test_what_went_wrong_is_in_the_error(api):
    api.server.agent("support").fails("no model").replies(broken).replies(lambda m: 5).replies(lambda m: "\ud800")
    session = api.session()
    for reason in ("RuntimeError: no model", "RuntimeError: no hi", "must be a text, not int", "lone surrogate"):
        assert reason in api.turn(session, "hi")[-1]["data"]["data"]["exception"]


def test_the_error_may_come_later(api):
    api.server.agent("support").fails().waits("error", at="error")
    session = api.begin("error")
    assert brief(api.events(session)[-1]) == "ready(completed)"
    api.finish("error")
    assert brief(api.events(session)[-1]) == "error"


def test_emits(api):
    api.server.agent("support").emits(
        {"data": {"status": "acknowledged"}},
        {"kind": "message", "data": {"message": "odd"}, "metadata": {"m": 1}},
        {"kind": "hologram", "source": "oracle", "data": [1], "trace": "elsewhere"},
    )
    events = api.turn(api.session(), "hi")[1:]
    assert [(e["kind"], e["source"]) for e in events] == [
        ("status", "ai_agent"), ("message", "ai_agent"), ("hologram", "oracle"),
    ]  # fmt: skip
    assert [e["trace_id"] == events[0]["trace_id"] for e in events] == [True, True, False]
    assert events[1]["metadata"] == {"m": 1}


def test_a_request_may_share_the_trace_of_its_turn(serve):
    api = serve(traces="shared")
    (trace,) = {e["trace_id"] for e in api.turn(api.session(), "a")}
    assert len(trace) == 32


# --- time


def test_gates(api):
    api.server.agent("support").waits("answer").replies("one").replies("two", then="three").waits("then", at="then")
    session = api.begin("answer", "a")
    assert [brief(e) for e in api.events(session)][1:] == START
    api.server.release("answer", 1)
    api.server.wait_idle()
    api.send(session, "b")
    api.server.reached("answer")
    api.server.release("answer", 1)
    api.server.reached("then")
    assert [brief(e) for e in api.events(session)][-3:] == ["two", "ready", "typing"]
    api.finish("then")
    assert [brief(e) for e in api.events(session)][-3:] == ["three", *END]


def test_a_gate_can_be_opened_before_and_shut_again(api):
    api.server.agent("support").waits("g")
    api.server.release("g")
    assert seen(api, "a", "b") == [[*START, "echo: a", *END], [*START, "echo: b", *END]]
    api.server.shut("g")
    session = api.begin("g", "c")
    assert [brief(e) for e in api.events(session)][1:] == START
    api.server.release("g", 2)
    api.server.wait_idle()
    assert [brief(e) for e in api.events(session)][1:] == [*START, "echo: c", *END]
    # The second pass was kept for this one.
    assert [brief(e) for e in api.turn(session, "d")][1:] == [*START, "echo: d", *END]


def test_acknowledged_later(api):
    api.server.agent("support").waits("ack", at="acknowledge")
    session = api.begin("ack")
    assert len(api.events(session)) == 1
    api.finish("ack")
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


# --- greetings and triggers


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
    session = api.begin("g")
    api.server.delete_session(session)
    api.finish("g")
    assert api.list(session).status_code == 404
