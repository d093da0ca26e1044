"""The agents on the real server: their answers, and the event sequences of each directive."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.demo_wire import Event, Wire, is_preamble, plot, shapes, texts

from parlant_sync.demo.server.knowledge import load

pytestmark = pytest.mark.real

TRACES = Path(__file__).parents[1] / "traces"
ANSWERED = ["customer", "acknowledged", "typing", "message", "ready", "completed"]
HESITATED = ["customer", "acknowledged", "typing", "preamble", "ready", *ANSWERED[2:]]


def plotted(wire: Wire, events: list[Event]) -> list[str]:
    return plot(events, has_stages=wire.has_stages)


def recorded(wire: Wire, scenario: str) -> list[str]:
    """The shapes of a recorded trace of this version of Parlant."""
    found = list(TRACES.glob(f"{wire.minor}.*/{scenario}.json"))
    if not found:
        pytest.skip(f"{scenario} was not recorded with Parlant {wire.minor}")
    return shapes(json.loads(found[0].read_text("utf-8"))["final"])


def without_repeats(shapes: list[str]) -> list[str]:
    """The engine repeats ``processing`` as often as its own delays have it."""
    return [shape for shape, before in zip(shapes, ["", *shapes], strict=False) if shape != before]


def trace(event: Event) -> str:
    """The trace of an event, which is called differently before 3.1."""
    return str(event.get("trace_id") or event["correlation_id"])


def first_trace(events: list[Event]) -> str:
    """The trace of the first turn in *events*."""
    return next(trace(event) for event in events if event["source"] == "ai_agent")


# -- the agents ------------------------------------------------------------------------------


@pytest.mark.parametrize("agent", ["research", "welfare"])
def test_a_conversation_with_follow_up_questions(wire: Wire, agent: str) -> None:
    collection = load(agent)
    first, second = collection.entries[:2]
    talk = wire.session(agent)
    assert talk.answer(f"What is {first.title}?") == first.summary
    assert talk.answer("And who uses it?") == first.facets["who"]
    assert talk.answer(f"What does {second.title} cost?") == f"{second.summary} {second.facets['cost']}"


@pytest.mark.parametrize(
    ("agent", "answer"), [("quick", "echo: hi"), ("streamer", "streamed echo of: hi"), ("hesitant", "echo: hi")]
)
def test_the_agents_for_tests(wire: Wire, agent: str, answer: str) -> None:
    talk = wire.session(agent)
    for _ in range(4):  # a preamble each time, where there is one
        events = talk.turn("hi")
        assert texts(events) == [answer]
        assert plotted(wire, events) == (HESITATED if agent == "hesitant" else ANSWERED)


def test_a_streamed_message_has_its_words_as_chunks(wire: Wire) -> None:
    events = wire.session("streamer").turn("a b c")
    chunks = [event["data"].get("chunks") for event in events if event["kind"] == "message"][-1]
    words = ["streamed ", "echo ", "of: ", "a ", "b ", "c", None]
    assert chunks == (words if wire.server.streaming else None)


def test_a_greeting(wire: Wire) -> None:
    talk = wire.session("hesitant", greeting=True)
    events = talk.until(talk.over)
    assert texts(events) == ["echo: (greeting)"]
    assert shapes(events) == recorded(wire, "greeting")


def test_speaking_by_itself(wire: Wire) -> None:
    talk = wire.session("quick")
    since = talk.turn("hi")[-1]["offset"] + 1
    talk.trigger()  # its status is unreliable: Parlant may answer 500 though the turn runs
    events = talk.until(talk.over, since)
    assert texts(events) == ["proactive message"]
    status, event = talk.trigger("offer help", "[parts=1] say when")
    assert status == 201
    assert event["data"]["message"] == "as asked: offer help; say when"


def test_directives_work_with_the_agents_of_the_demonstration(wire: Wire) -> None:
    assert wire.session("welfare").answer("[echo] What is peer review?") == "echo: What is peer review?"


def test_twenty_five_sessions_at_once(wire: Wire) -> None:
    def converse(number: int) -> list[str]:
        talk = wire.session(["quick", "streamer", "hesitant"][number % 3])
        return [talk.answer(f"{number}.{turn}").rpartition(": ")[2] for turn in range(3)]

    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(converse, range(25)))
    assert answers == [[f"{number}.{turn}" for turn in range(3)] for number in range(25)]


# -- directives, compared with what was recorded of agents with a model of their own ---------


@pytest.mark.parametrize(
    ("message", "scenario"),
    [
        ("hello", "simple"),
        ("[parts=2] hello", "two_messages"),
        ("[silent] hello", "silent"),
        ("[fail] hello", "engine_error"),
    ],
)
def test_turns_are_as_they_were_recorded(wire: Wire, message: str, scenario: str) -> None:
    assert shapes(wire.session("hesitant").turn(message)) == recorded(wire, scenario)


def test_a_turn_without_preamble_is_as_it_was_recorded(wire: Wire) -> None:
    if wire.minor == "3.0":
        pytest.skip("the agent recorded with 3.0 could not do without")
    assert shapes(wire.session("quick").turn("hello")) == recorded(wire, "no_preamble")


def test_a_streamed_turn_is_as_it_was_recorded(wire: Wire) -> None:
    if not wire.server.streaming:
        pytest.skip(f"Parlant {wire.minor} does not stream")
    assert shapes(wire.session("streamer").turn("a b c")) == recorded(wire, "streaming")


@pytest.mark.parametrize(
    ("agent", "directive", "scenario"),
    [
        ("rest-natural-block", "", "rest_agent"),
        ("rest-natural-block", "[silent]", "rest_silent"),
        ("strict-natural-block", "", "strict_agent"),
        ("composited-natural-block", "", "composited_agent"),
        ("sdk-natural-block", "[tool=ready]", "tool_says_ready"),
        ("sdk-natural-block", "[tool=error]", "tool_says_error"),
        ("sdk-natural-block", "[tool=message]", "tool_says_message"),
        ("sdk-natural-block", "[hook=greets]", "hook_greets"),
        ("sdk-natural-block", "[hook=drops]", "hook_drops"),
    ],
)
def test_other_kinds_of_agents_are_as_they_were_recorded(wire: Wire, agent: str, directive: str, scenario: str) -> None:
    events = wire.session(agent).turn(f"{directive} hello")
    assert without_repeats(shapes(events)) == without_repeats(recorded(wire, scenario))


@pytest.mark.parametrize(("hook", "last"), [("answers", "message"), ("stops", "processing")])
def test_a_hook_that_stops_the_engine_leaves_a_turn_without_an_end(wire: Wire, hook: str, last: str) -> None:
    if wire.minor in ("3.0", "3.1") and hook == "stops":
        last = "acknowledged"  # these have no stage between
    talk = wire.session("sdk-prompt-block")
    events = talk.until(lambda events: last in shapes(events), talk.post(f"[hook={hook}] hello")["offset"])
    assert shapes(events)[-1] == last
    assert talk.events(events[-1]["offset"] + 1, wait=1) == []
    assert talk.answer("again") == "echo: again"


def test_a_tool_hands_the_session_over(wire: Wire) -> None:
    talk = wire.session("rest-prompt-block")
    assert talk.answer("[tool=manual] hello") == "echo: hello"
    assert wire.request("GET", f"/sessions/{talk.id}")[1]["mode"] == "manual"


def test_several_messages(wire: Wire) -> None:
    events = wire.session("quick").turn("[parts=3] hello")
    assert texts(events) == ["echo: hello", "second part", "third part"]
    assert plotted(wire, events) == [*ANSWERED[:-1], *["typing", "message", "ready"] * 2, "completed"]


@pytest.mark.parametrize("agent", ["quick", "streamer"])
def test_silence(wire: Wire, agent: str) -> None:
    events = wire.session(agent).turn("[silent] hello")
    assert texts(events) == []
    assert "error" not in shapes(events)


@pytest.mark.parametrize("agent", ["quick", "streamer", "hesitant"])
def test_after_a_failure_the_next_turn_is_clean(wire: Wire, agent: str) -> None:
    talk = wire.session(agent)
    events = talk.turn("[fail] hello")
    assert plotted(wire, events) == ["customer", "acknowledged", "typing", "completed", "error"]
    assert "ScriptedFailure: boom" in events[-1]["data"]["data"]["exception"]
    assert talk.answer("again").endswith("again")


def test_a_failing_answer(wire: Wire) -> None:
    talk = wire.session("quick")
    since = talk.post("[fail=answer] hello")["offset"]
    events = talk.until(talk.over, since)
    assert texts(events) == []
    # Nothing more comes from 3.1 on; 3.0 reports an error.
    talk.turn("next")
    assert ("error" in shapes(talk.events(since))) == (wire.minor == "3.0")


@pytest.mark.slow
def test_failing_guideline_matching(wire: Wire) -> None:
    events = wire.session("quick").turn("[fail=match] hello")
    assert plotted(wire, events) == ["customer", "acknowledged", "completed", "error"]


def test_a_stream_that_breaks(wire: Wire) -> None:
    talk = wire.session("streamer")
    if not wire.server.streaming:
        pytest.skip(f"Parlant {wire.minor} does not stream")
    events = talk.turn("[break] a b c")
    assert texts(events) == ["streamed echo of: "]
    assert plotted(wire, events) == ["customer", "acknowledged", "typing", "message", "completed", "error"]
    assert events[-3]["data"]["chunks"] == ["streamed ", "echo ", "of: ", None]
    assert talk.answer("again") == "streamed echo of: again"


@pytest.mark.parametrize("directive", ["slow=0.5", "slowmatch=0.5", "pace=0.1"])
def test_slowness(wire: Wire, directive: str) -> None:
    agent = "streamer" if directive.startswith("pace") else "quick"
    if agent == "streamer" and not wire.server.streaming:
        pytest.skip(f"Parlant {wire.minor} does not stream")
    talk = wire.session(agent)
    began = time.monotonic()
    assert talk.answer(f"[{directive}] a b c").endswith("echo: a b c" if agent == "quick" else "echo of: a b c")
    assert time.monotonic() - began >= 0.5


# -- gates: a turn that stands still until it is let go ---------------------------------------


def test_an_answer_waits_at_its_gate(wire: Wire) -> None:
    talk = wire.session("quick")
    since = talk.post("[gate=answer] hello")["offset"]
    seen = talk.until(lambda events: "typing" in shapes(events), since)
    assert texts(seen) == []
    assert talk.events(seen[-1]["offset"] + 1, wait=1) == []
    wire.server.release("answer")
    rest = talk.until(talk.over, seen[-1]["offset"] + 1)
    assert texts(rest) == ["echo: hello"]


def test_a_stream_waits_in_its_middle(wire: Wire) -> None:
    if not wire.server.streaming:
        pytest.skip(f"Parlant {wire.minor} does not stream")
    talk = wire.session("streamer")
    since = talk.post("[gatemid=middle] a b c")["offset"]

    def half(events: list[Event]) -> bool:
        return bool(texts(talk.events(since))) and texts(talk.events(since))[0].endswith("of: ")

    talk.until(half, since)
    wire.server.release("middle")
    talk.until(talk.over, since)
    assert texts(talk.events(since)) == ["streamed echo of: a b c"]


@pytest.mark.parametrize(
    ("agent", "gate", "reached"),
    [
        ("quick", "gatematch", "acknowledged"),
        ("quick", "gate", "typing"),
        ("streamer", "gate", "typing"),
        ("streamer", "gatemid", "message"),
        ("hesitant", "gatematch", "preamble"),
        ("hesitant", "gatepreamble", "typing"),
    ],
)
def test_a_newer_message_cancels_the_turn(wire: Wire, agent: str, gate: str, reached: str) -> None:
    if gate == "gatemid" and not wire.server.streaming:
        pytest.skip(f"Parlant {wire.minor} does not stream")
    talk = wire.session(agent)
    name = f"cancel-{agent}-{gate}"
    talk.post(f"[{gate}={name}] first")
    before = talk.until(lambda events: reached in shapes(events))
    second = talk.turn("second")
    assert [text for text in texts(second) if text.endswith("second")] == texts(second)
    old = first_trace(before)
    cancelled = [event for event in second if trace(event) == old]
    assert plotted(wire, cancelled)[:1] == ["cancelled"]
    wire.server.release(name)
    if gate == "gatepreamble":
        # The preamble of the turn that is over comes all the same, when it is ready.
        late = talk.until(lambda events: any(map(is_preamble, events)), second[-1]["offset"] + 1)
        assert first_trace(late) == old


def test_a_turn_far_enough_along_finishes(wire: Wire) -> None:
    talk = wire.session("hesitant")
    talk.post("[parts=3] first")
    # The second typing is the first message's, the third that of the second message.
    talk.until(lambda events: shapes(events).count("typing") == 3)
    talk.post("second")
    second = talk.until(lambda events: "echo: second" in texts(events))
    talk.until(talk.over, max(event["offset"] for event in second if shapes([event]) == ["acknowledged"]))
    events = talk.events()
    if wire.minor == "3.0" and len(texts(events)) == 2:
        # Depending on the moment, 3.0 just stops between two messages.
        assert texts(events) == ["echo: first", "echo: second"]
        return
    assert texts(events) == ["echo: first", "second part", "third part", "echo: second"]
    old = first_trace(events)
    spoken = [event for event in events if event["source"] == "ai_agent"]
    turns = [[event for event in spoken if (trace(event) == old) is first] for first in (True, False)]
    assert spoken == [*turns[0], *turns[1]]  # the new turn begins when the old one is over
    parts = ["typing", "message", "ready"] * 2
    assert plotted(wire, turns[0]) == [*HESITATED[1:-1], *parts, "completed"]
    assert plotted(wire, turns[1]) == HESITATED[1:]
