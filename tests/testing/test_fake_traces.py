"""The stand-in's turns, event by event, against what real servers of four versions did (tests/traces)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.raw_api import Api, in_background

TRACES = Path(__file__).parent.parent / "traces"
FILES = sorted(TRACES.glob("*/*.json"))
RECORDED = {(f.parent.name.rpartition(".")[0], f.stem): f for f in FILES}


def test_the_traces_are_there():
    assert {version for version, _ in RECORDED} == {"3.0", "3.1", "3.2", "3.3"}
    assert len(RECORDED) == 48


# --- what the stand-in must be told to do the same


def echo(message: str) -> str:
    return f"echo: {message}"


def play(api: Api, version: str, scenario: str, recorded: dict[str, Any]) -> str:
    """Does what was done when the trace was taken; gives the session."""
    agent = api.server.agent("research", "Research")
    posts = [post["request"] for post in recorded["posts"]]
    texts = [post["message"] for post in posts]
    if scenario not in ("no_preamble", "streaming", "engine_error") or version == "3.0":
        agent.with_preamble("Hmm...")
    if scenario == "engine_error":
        agent.forget().fails()
    elif scenario == "silent":
        agent.stays_silent()
    elif scenario == "two_messages":
        agent.replies(echo, then="second part")
    elif scenario.startswith("streaming"):
        agent.streams([c for c in recorded["final"][-3]["data"]["chunks"] if c is not None])
    if scenario == "greeting":
        session = api.call("POST", "/sessions?allow_greeting=true", json={"agent_id": "research"}).json()["id"]
        api.server.wait_idle()
        return str(session)
    session = api.session("research")
    if scenario == "manual_human":
        api.server.set_mode(session, "manual")
        for post in posts:
            assert api.post(session, **post).status_code == 201
    elif scenario.startswith("interrupted"):
        interrupt(api, version, scenario, session, *texts)
    else:
        for post in posts:
            assert api.post(session, **post).status_code == 201
            api.server.wait_idle()
    api.server.wait_idle()
    return session


def interrupt(api: Api, version: str, scenario: str, session: str, first: str, second: str) -> None:
    agent = api.server.agent("research")
    cancels = version in ("3.2", "3.3")
    if scenario == "interrupted":
        agent.echoes().waits("old", at="start").when_interrupted("auto" if cancels else "finish").echoes()
    elif scenario == "interrupted_at_once":
        # The preamble of the old turn dribbled in on 3.3, not on 3.2: which of the two is chance.
        how = "cancel" if cancels else "late"
        agent.echoes().waits("old", at="start").when_interrupted(how, dribbles=version == "3.3").echoes()
    elif version == "3.2":
        agent.echoes().waits("old", at="answer").echoes()  # that time the message came before the first answer
    else:
        agent.replies(echo, then=["second part", "third part"]).waits("old", at="then").when_interrupted(
            "finish"
        ).echoes()
    api.send(session, first)
    api.server.reached("old")
    later = in_background(api.send, session, second)
    if cancels and not (version == "3.3" and scenario == "interrupted_in_follow_up"):
        later.result()
    else:
        api.server.wait_requests("POST /events", 2)
        assert later.running  # its POST is held while the old turn goes on
    api.server.release("old")
    later.result()


# --- comparing


def shape(value: Any) -> Any:
    """What there is, without the values."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def trace_of(event: dict[str, Any]) -> str:
    return str(event.get("trace_id", event["correlation_id"]))


def seen(events: list[dict[str, Any]], names: dict[str, str]) -> list[Any]:
    """What matters of each event; traces by the order in which they come."""
    found = []
    for event in events:
        base, _, rest = trace_of(event).partition("::")
        label = base if base == "<main>" else names.setdefault(base, f"T{len(names)}")
        data = event["data"]
        status = (data.get("status"), (data.get("data") or {}).get("stage"))
        text = (data.get("message"), data.get("tags"), data.get("chunks"))
        found.append((event["kind"], event["source"], status, text, (label, rest), shape(event)))
    return found


def by_trace(events: list[dict[str, Any]]) -> list[Any]:
    """The events of each trace in their order, traces in the order in which they come."""
    groups: dict[str, list[Any]] = {}
    for event in events:
        groups.setdefault(trace_of(event), []).append(event)
    return [[item[:4] + item[5:] for item in seen(group, {})] for group in groups.values()]


@pytest.mark.parametrize(("version", "scenario"), list(RECORDED), ids=["-".join(key) for key in RECORDED])
def test_the_same_turn(serve, version, scenario):
    recorded = json.loads(RECORDED[version, scenario].read_text(encoding="utf-8"))
    api = serve(version)
    events = api.events(play(api, version, scenario, recorded))
    wanted = recorded["final"]
    assert [e["offset"] for e in events] == list(range(len(wanted)))
    assert by_trace(events) == by_trace(wanted)
    # What is left of a cancelled turn comes in at any time between the events of the next.
    dribbled = scenario in ("interrupted", "interrupted_at_once") and version in ("3.2", "3.3")
    certain = 6 if dribbled else len(wanted)
    assert seen(events[:certain], {}) == seen(wanted[:certain], {})
