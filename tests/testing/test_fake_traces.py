"""The stand-in's turns, event by event, against what real servers of five versions did (tests/traces)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.raw_api import Api, in_background

from parlant_sync.testing import AgentScript
from parlant_sync.testing.agents import CompositionMode, Interruption

TRACES = Path(__file__).parent.parent / "traces"
FILES = sorted(TRACES.glob("*/*.json"))
RECORDED = {(f.parent.name.rpartition(".")[0], f.stem): f for f in FILES}


def test_the_traces_are_there():
    assert {version for version, _ in RECORDED} == {"3.0", "3.1", "3.2", "3.3", "4.0"}
    assert len(RECORDED) == 135


# --- the script with which the stand-in does the same


def echo(message: str) -> str:
    return f"echo: {message}"


def agent_for(api: Api, version: str, scenario: str) -> AgentScript:
    """The agent that was recorded: made by REST, or by the SDK with this composition mode and preamble policy."""
    if (version, scenario) == ("4.0", "rest_error"):  # its policy wanted no preamble
        return api.server.agent("rest", composition_mode="fluid", preamble=False, engine="alpha")
    if scenario.startswith("rest_"):
        return api.server.agent(api.call("POST", "/agents", json={"name": "rest"}).json()["id"])
    modes: dict[str, CompositionMode] = {"composited_agent": "composited", "strict_agent": "strict"}
    if version == "4.0":
        return api.server.agent("quick", composition_mode=modes.get(scenario))
    agent = api.server.agent("research", composition_mode=modes.get(scenario))
    if scenario not in ("no_preamble", "streaming", "engine_error", "strict_agent") or version == "3.0":
        agent.with_preamble("Hmm...")
    return agent


def write(agent: AgentScript, scenario: str, final: list[dict[str, Any]]) -> None:
    """What the agent was made to do, in all scenarios but the interruptions."""
    said = [e["data"]["message"] for e in final if e["kind"] == "message" and e["source"] == "ai_agent"]
    if scenario in ("engine_error", "rest_error"):
        agent.forget().fails(at="match" if agent.id == "rest" else "preamble")
    elif scenario in ("silent", "rest_silent"):
        agent.stays_silent()
    elif scenario == "two_messages":
        agent.replies(echo, then="second part")
    elif scenario == "strict_agent" and said:
        agent.forget().replies(said[-1])
    elif scenario == "rest_prompted":
        agent.replies(said[0]).replies(said[1])
    elif scenario.startswith("streaming"):
        chunks = next(e["data"]["chunks"] for e in final if "chunks" in e["data"])
        agent.streams([c for c in chunks if c is not None])
    elif scenario == "hook_answers":
        agent.hook_answers(said[-1])
    elif scenario == "refused":
        agent.refuses(scope="session", reason="the script says so")
    elif scenario == "stream_breaks":
        agent.streams([*final[-2]["data"]["chunks"], "two "], breaks_after=4)
    elif scenario == "thinks":
        agent.replies(said[0]).with_reasoning(["Let me ", "think ", "about it."])
    elif scenario == "hook_greets":
        agent.replies(said[-1]).with_hook_message(said[0])
    elif scenario == "hook_stops":
        agent.hook_stops()
    elif scenario == "hook_drops":
        agent.replies("echo: hookdrop") if "echo: hookdrop" in said else agent.hook_drops()
    elif scenario.startswith("tool_"):
        (call,) = next(e for e in final if e["kind"] == "tool")["data"]["tool_calls"]
        if call["tool_id"] == "act":  # 4.0
            emits = {"tool_says_ready": [{"status": "ready"}], "tool_says_error": [{"status": "error"}]}.get(
                scenario, []
            )
            emits = [{"message": said[0]}] if scenario == "tool_says_message" else emits
            result = call["result"]
            answer = said[-1] if scenario == "tool_says_message" else said[0]
            agent.replies(answer).with_tool("act", {}, result["data"], emits=emits, control=result["control"])
            agent.replies(said[-1])
            return
        emits = {
            "tool_says_ready": [{"status": "ready", "data": {"progress": 50}}],
            "tool_says_error": [{"status": "error", "data": {"message": "the loyalty service is down"}}],
            "tool_says_message": [
                {"status": "processing", "data": {"stage": "Searching"}},
                {"message": "I have found three."},
            ],
        }.get(scenario, [])
        agent.with_tool(call["tool_id"], {}, "done", emits=emits, control=call["result"]["control"])
        agent.with_matches(guidelines=["g"])


def play(api: Api, version: str, scenario: str, recorded: dict[str, Any]) -> str:
    """Does what was done when the trace was taken; gives the session."""
    agent = agent_for(api, version, scenario)
    posts = [post["request"] for post in recorded["posts"]]
    write(agent, scenario, recorded["final"])
    greeting = "?allow_greeting=true" if scenario == "greeting" else ""
    session = str(api.call("POST", f"/sessions{greeting}", json={"agent_id": agent.id}).json()["id"])
    api.server.wait_idle()
    if scenario.startswith("manual_"):
        api.server.set_mode(session, "manual")
    if version == "4.0":
        play_4_0(api, agent, scenario, session, recorded)
    elif "interrupted" in scenario:
        interrupt(api, agent, version, scenario, session, *[post["message"] for post in posts])
    else:
        for post in posts:
            assert api.post(session, **post).status_code == 201
            api.server.wait_idle()
    api.server.wait_idle()
    return session


def play_4_0(api: Api, agent: AgentScript, scenario: str, session: str, recorded: dict[str, Any]) -> None:
    if scenario in ("cancelled_streaming", "interrupted_streaming"):
        for event in recorded["final"]:
            if event["kind"] == "message" and event["source"] == "ai_agent":
                agent.streams([chunk for chunk in event["data"]["chunks"] if chunk is not None]).waits(
                    "old", at="chunk"
                )
    elif scenario in ("cancelled_matching", "interrupted_matching"):
        agent.replies("never").waits("old", at="processing").replies("echo: second")
    elif scenario in ("simple", "second_turn", "cancelled", "cancelled_idle", "interrupted", "manual_mode"):
        for event in recorded["final"]:
            if event["kind"] == "message" and event["source"] == "ai_agent":
                agent.replies(event["data"]["message"]).waits("old")
    stops = scenario.startswith(("cancelled", "interrupted")) and scenario != "cancelled_idle"
    for number, post in enumerate(recorded["posts"]):
        posting = in_background(api.post, session, **post["request"])
        if number and stops:
            api.server.wait_requests("POST /events", 2)
            if scenario.endswith("matching"):
                posting.result()  # at once
        if number or not stops:
            api.server.release("old")  # the step that runs goes on to its end, and then the turn is cancelled
        answer = posting.result()
        assert answer.status_code == post["status"]
        if answer.status_code == 409:
            wanted = json.loads(post["event"])["detail"]
            assert answer.json()["detail"].replace(session, "") == wanted.replace("ZWwmBFwcps", "")
        elif scenario.startswith("cancelled") and number:
            assert seen([answer.json()], {}) == seen([post["event"]], {})
        if stops and not number:
            api.server.reached("old")
        else:
            api.server.wait_idle()


def interrupt(api: Api, agent: AgentScript, version: str, scenario: str, session: str, first: str, second: str) -> None:
    cancels = version in ("3.2", "3.3") or scenario.startswith("rest_")
    if scenario == "rest_interrupted_late":
        # The message came after the bare `ready`, on 3.3 after `typing`.
        agent.echoes().waits("old", at="answer" if version == "3.3" else "processing").echoes()
    elif scenario in ("interrupted", "rest_interrupted"):
        agent.echoes().waits("old", at="start").when_interrupted("auto" if cancels else "finish").echoes()
    elif scenario == "interrupted_at_once":
        # The preamble of the old turn still came on 3.3, not on 3.2: which of the two is chance.
        how: Interruption = "cancel" if cancels else "late"
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
    return str(event.get("trace_id") or event["correlation_id"])


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
    dribbled = "interrupted" in scenario and (version in ("3.2", "3.3") or scenario.startswith("rest_"))
    certain = 6 if dribbled else len(wanted)
    assert seen(events[:certain], {}) == seen(wanted[:certain], {})
