"""What a newer customer message does to a turn that runs: all the ways that were seen."""

from __future__ import annotations

import pytest
from support.raw_api import VERSIONS, Api, brief, in_background

CANCELLED = ["cancelled", "ready(completed)"]


def names(api: Api, session: str) -> list[str]:
    """The session's events, each with its trace: 1, 2, ... in the order in which they come."""
    traces: dict[str, int] = {}
    shown = []
    for event in api.events(session):
        trace = event["correlation_id"]
        number = "" if event["source"] == "customer" else f"{traces.setdefault(trace, len(traces) + 1)} "
        shown.append(number + brief(event))
    return shown


def begin(api: Api, gate: str = "g") -> str:
    session = api.session()
    api.send(session, "old")
    api.server.reached(gate)
    return session


def test_cancel(api):
    api.server.agent("support").replies("never").waits("g").replies("answer")
    session = begin(api)
    api.send(session, "new")
    api.server.wait_idle()
    assert names(api, session) == [
        "customer:old",
        "1 acknowledged",
        "1 processing(Interpreting)",
        "1 typing",
        "customer:new",
        "1 cancelled",
        "1 ready(completed)",
        "2 acknowledged",
        "2 processing(Interpreting)",
        "2 typing",
        "2 answer",
        "2 ready",
        "2 ready(completed)",
    ]


def test_cancelled_at_its_first_step(api):
    api.server.agent("support").replies("never").replies("answer")
    session = api.session()
    api.server.pause()
    api.send(session, "old")
    api.send(session, "new")
    api.server.resume()
    api.server.wait_idle()
    assert names(api, session)[:6] == [
        "customer:old",
        "1 acknowledged",
        "customer:new",
        "1 cancelled",
        "1 ready(completed)",
        "2 acknowledged",
    ]


def test_not_even_acknowledged(api):
    api.server.agent("support").replies("never").waits("g", at="acknowledge").replies("answer")
    session = begin(api)
    api.send(session, "new")
    api.server.wait_idle()
    assert names(api, session)[:3] == ["customer:old", "customer:new", "1 acknowledged"]


def test_dribble(api):
    api.server.agent("support").with_preamble().replies("never").waits("g", at="start").replies("answer")
    session = begin(api)
    api.send(session, "new")
    api.server.wait_events(session, 14)
    api.server.release("g")
    api.server.wait_idle()
    shown = names(api, session)
    assert shown[2:6] == ["customer:new", "1 cancelled", "1 ready(completed)", "2 acknowledged"]
    assert shown[-6:] == [
        "2 ready",
        "2 ready(completed)",
        "1 typing",
        "1 preamble:Hmm...",
        "1 ready",
        "1 processing(Interpreting)",
    ]


def test_no_dribble(api):
    agent = api.server.agent("support").with_preamble()
    agent.replies("never").waits("g", at="preamble").when_interrupted("cancel", dribbles=False).replies("answer")
    session = begin(api)
    api.send(session, "new")
    api.server.wait_idle()
    shown = names(api, session)
    assert [s for s in shown if s.startswith("1 ")] == [
        "1 acknowledged",
        "1 typing",
        "1 cancelled",
        "1 ready(completed)",
    ]


def test_a_turn_with_a_message_out_finishes_and_the_post_waits(api):
    api.server.agent("support").replies("one", then="two").waits("g", at="then").replies("answer")
    session = begin(api)
    later = in_background(api.send, session, "new")
    api.server.wait_events(session, 8)
    assert later.running
    api.server.release("g")
    later.result()
    api.server.wait_idle()
    assert names(api, session)[6:13] == [
        "1 typing",
        "customer:new",
        "1 two",
        "1 ready",
        "1 ready(completed)",
        "2 acknowledged",
        "2 processing(Interpreting)",
    ]


def test_the_post_of_another_session_waits_as_well(api):
    api.server.agent("support").replies("one", then="two").waits("g", at="then").replies("answer")
    session, other = begin(api), api.session()
    later = in_background(api.send, session, "new")
    api.server.wait_events(session, 8)
    elsewhere = in_background(api.send, other, "hello")
    api.server.wait_events(other, 1)  # stored, though not answered
    assert elsewhere.running
    api.server.release("g")
    later.result()
    elsewhere.result()
    api.server.wait_idle()


@pytest.mark.parametrize("version", VERSIONS)
def test_before_its_first_message_every_version_cancels(serve, version):
    api = serve(version)
    api.server.agent("support").replies("never").waits("g").replies("answer")
    session = begin(api)
    api.send(session, "new")
    api.server.wait_idle()
    shown = names(api, session)
    assert shown[shown.index("customer:new") + 1] == "1 cancelled"
    assert shown[shown.index("customer:new") + 2] in ("1 ready", "1 ready(completed)")
    assert shown[shown.index("customer:new") + 3] == "2 acknowledged"
    assert "2 answer" in shown


def test_between_its_messages_3_0_just_stops(serve):
    api = serve("3.0")
    api.server.agent("support").replies("one", then="two").waits("g", at="then").replies("answer")
    session = begin(api)
    api.send(session, "new")
    api.server.wait_idle()
    assert (
        names(api, session)[4:]
        == ["1 ready", "1 typing", "customer:new", "2 acknowledged", "2 typing", "2 answer"] + ["2 ready"] * 2
    )


def test_a_turn_that_finishes_answers_the_newer_message(serve):
    api = serve("3.1")
    api.server.agent("support").echoes().waits("g").when_interrupted("finish").echoes()
    session = begin(api)
    later = in_background(api.send, session, "new")
    api.server.wait_events(session, 4)
    api.server.release("g")
    later.result()
    api.server.wait_idle()
    shown = [name for name in names(api, session) if "echo" in name or "cancelled" in name]
    assert shown == ["1 echo: new", "2 echo: new"]


def test_late(serve):
    api = serve("3.1")
    api.server.agent("support").with_preamble()
    api.server.agent("support").echoes().waits("g", at="start").when_interrupted("late").echoes()
    session = begin(api)
    later = in_background(api.send, session, "new")
    api.server.wait_events(session, 3)
    api.server.release("g")
    later.result()
    api.server.wait_idle()
    assert names(api, session)[3:] == [
        "1 typing",
        "1 preamble:Hmm...",
        "1 ready",
        "1 processing(Interpreting)",
        "1 processing(Thinking)",
        "1 cancelled",
        "1 ready",
        "2 acknowledged",
        "2 typing",
        "2 echo: new",
        "2 ready",
        "2 ready",
    ]


def test_stop(serve):
    api = serve("3.0")
    api.server.agent("support").replies("one", then="two").waits("g", at="then").when_interrupted("stop").replies("new")
    session = begin(api)
    api.send(session, "new")
    api.server.wait_idle()
    shown = names(api, session)
    assert shown[:8] == [
        "customer:old",
        "1 acknowledged",
        "1 typing",
        "1 one",
        "1 ready",
        "1 typing",
        "customer:new",
        "2 acknowledged",
    ]
    assert not any(name.startswith("1 ") for name in shown[7:])


def test_finish_by_wish(api):
    api.server.agent("support").replies("old answer").waits("g").when_interrupted("finish").replies("answer")
    session = begin(api)
    later = in_background(api.send, session, "new")
    api.server.wait_events(session, 5)
    api.server.release("g")
    later.result()
    api.server.wait_idle()
    assert [n for n in names(api, session) if n in ("1 old answer", "2 answer", "1 cancelled")] == [
        "1 old answer",
        "2 answer",
    ]


def test_a_message_from_elsewhere(api):
    api.server.agent("support").replies("never").waits("g").replies("answer")
    session = begin(api)
    api.server.say(session, "new", metadata={"by": "another process"})
    api.server.wait_idle()
    events = api.events(session)
    assert names(api, session)[4:7] == ["customer:new", "1 cancelled", "1 ready(completed)"]
    assert events[4]["metadata"] == {"by": "another process"}


def test_manual_mode_cancels_too(api):
    api.server.agent("support").replies("never").waits("g")
    session = begin(api)
    api.server.set_mode(session, "manual")
    api.send(session, "new")
    api.server.wait_idle()
    assert names(api, session)[-3:] == ["customer:new", "1 cancelled", "1 ready(completed)"]
