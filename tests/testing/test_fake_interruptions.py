"""What a newer customer message does to a turn that runs: what the recordings of test_fake_traces.py do not show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.raw_api import VERSIONS, Api, brief, in_background

from parlant_sync.testing import AgentScript

SHORT = {"ack": "acknowledged", "think": "processing(Interpreting)", "done": "ready(completed)"}
NEW = "2 ack, think, typing, answer, ready, done"
NEW_3_0 = "2 ack, typing, answer, ready, ready"


def expand(events: str) -> list[str]:
    """``1 ack, typing; new`` -> ``1 acknowledged``, ``1 typing``, ``customer:new``"""
    found = []
    for part in events.split("; "):
        number, _, rest = part.partition(" ")
        found += [f"{number} {SHORT.get(e, e)}" for e in rest.split(", ")] if rest else [f"customer:{part}"]
    return found


def names(api: Api, session: str) -> list[str]:
    """The session's events, each with its trace: 1, 2, ... in the order in which they come."""
    traces: dict[str, int] = {}
    shown = []
    for event in api.events(session):
        trace = event["correlation_id"]
        number = "" if event["source"] == "customer" else f"{traces.setdefault(trace, len(traces) + 1)} "
        shown.append(number + brief(event))
    return shown


def interrupted(api: Api, write: Callable[[AgentScript], object], *, held: bool = False) -> str:
    """A turn that waits at the gate `g` when a newer message comes. `held`: that message's POST waits for it."""
    write(api.server.agent("support"))
    session = api.begin("g", "old")
    before = len(api.events(session))
    later = in_background(api.send, session, "new")
    if held:
        api.server.wait_events(session, before + 1)
        assert later.running
    else:
        later.result()
    api.server.release("g")
    later.result()
    api.server.wait_idle()
    return session


@pytest.mark.parametrize(
    ("version", "write", "held", "expected"),
    [
        ("3.3", lambda a: a.replies("x").waits("g", at="acknowledge"), False, f"new; {NEW.replace('2', '1')}"),
        (
            "3.3",
            lambda a: (
                a.with_preamble().replies("x").waits("g", at="preamble").when_interrupted("cancel", dribbles=False)
            ),
            False,
            f"1 ack, typing; new; 1 cancelled, done; {NEW.replace('think', 'typing, preamble:Hmm..., ready, think')}",
        ),
        # Between its messages, 3.0 just stops.
        (
            "3.0",
            lambda a: a.replies("one", then="two").waits("g", at="then"),
            False,
            f"1 ack, typing, one, ready, typing; new; {NEW_3_0}",
        ),
        # As the script says.
        (
            "3.3",
            lambda a: a.replies("x").waits("g").when_interrupted("stop"),
            False,
            f"1 ack, think, typing; new; {NEW}",
        ),
        (
            "3.3",
            lambda a: a.replies("x").waits("g").when_interrupted("finish"),
            True,
            f"1 ack, think, typing; new; 1 x, ready, done; {NEW}",
        ),
    ],
)
def test_an_interruption(serve, version, write, held, expected):
    api = serve(version)
    session = interrupted(api, lambda agent: write(agent).replies("answer"), held=held)
    assert names(api, session) == ["customer:old", *expand(expected)]


@pytest.mark.parametrize("version", VERSIONS)
def test_before_its_first_message_every_version_cancels(serve, version):
    api = serve(version)
    shown = names(api, interrupted(api, lambda agent: agent.replies("never").waits("g").replies("answer")))
    last = "1 ready" if version in ("3.0", "3.1") else "1 ready(completed)"
    new = shown.index("customer:new")
    assert shown[new + 1 : new + 4] == ["1 cancelled", last, "2 acknowledged"]
    assert "2 answer" in shown


def test_cancelled_at_its_first_step(api):
    api.server.agent("support").replies("never").replies("answer")
    session = api.session()
    api.server.pause()
    api.send(session, "old")
    api.send(session, "new")
    api.server.resume()
    api.server.wait_idle()
    assert names(api, session)[:6] == expand("old; 1 ack; new; 1 cancelled, done; 2 ack")


def test_a_message_from_elsewhere(api):
    api.server.agent("support").replies("never").waits("g").replies("answer")
    session = api.begin("g", "old")
    api.server.say(session, "new", metadata={"by": "another process"})
    api.server.wait_idle()
    assert names(api, session)[4:7] == expand("new; 1 cancelled, done")
    assert api.events(session)[4]["metadata"] == {"by": "another process"}


def test_manual_mode_cancels_too(api):
    api.server.agent("support").replies("never").waits("g")
    session = api.begin("g", "old")
    api.server.set_mode(session, "manual")
    api.send(session, "new")
    api.server.wait_idle()
    assert names(api, session)[-3:] == expand("new; 1 cancelled, done")
