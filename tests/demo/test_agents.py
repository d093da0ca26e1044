"""The scripted agents make the real server send what was recorded of agents with a model of their own (tests/traces).

What each directive makes of a reply is shown by tests/contract, on the same server.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.shared_servers import SharedServer
from support.waiting import wait_until

from parlant_sync import AgentError, Client

pytestmark = pytest.mark.real
TRACES = Path(__file__).parents[1] / "traces"


def shapes(events: Iterable[dict[str, Any]]) -> list[str]:
    """Each event in a word: the status, or who spoke. Delays make the engine repeat ``processing``: counted once."""
    found: list[str] = []
    for event in events:
        data = event["data"]
        shape = event["kind"]
        if shape == "status":
            shape = "completed" if (data.get("data") or {}).get("stage") == "completed" else data["status"]
        elif shape == "message" and event["source"] != "ai_agent":
            shape = event["source"]
        elif "__preamble__" in (data.get("tags") or []):
            shape = "preamble"
        if found[-1:] != [shape]:
            found.append(shape)
    return found


@pytest.mark.parametrize(
    ("agent", "message", "scenario"),
    [
        ("hesitant", "hello", "simple"),
        ("hesitant", "[parts=2] hello", "two_messages"),
        ("hesitant", "[silent] hello", "silent"),
        ("hesitant", "[fail] hello", "engine_error"),
        ("hesitant", "", "greeting"),
        ("quick", "hello", "no_preamble"),
        ("streamer", "a b c", "streaming"),
        ("rest-natural-block", "hello", "rest_agent"),
        ("rest-natural-block", "[silent] hello", "rest_silent"),
        ("strict-natural-block", "hello", "strict_agent"),
        ("composited-natural-block", "hello", "composited_agent"),
        ("sdk-natural-block", "[tool=ready] hello", "tool_says_ready"),
        ("sdk-natural-block", "[tool=error] hello", "tool_says_error"),
        ("sdk-natural-block", "[tool=message] hello", "tool_says_message"),
        ("sdk-natural-block", "[hook=greets] hello", "hook_greets"),
        ("sdk-natural-block", "[hook=drops] hello", "hook_drops"),
        ("sdk-natural-block", "[hook=stops] hello", "hook_stops"),
    ],
)
def test_turns_are_as_they_were_recorded(demo: SharedServer, agent: str, message: str, scenario: str) -> None:
    minor = demo.version.rpartition(".")[0]
    traces = list(TRACES.glob(f"{minor}.*/{scenario}.json"))
    if not traces or (minor, scenario) == ("3.0", "no_preamble"):
        pytest.skip(f"{scenario} was not recorded with Parlant {minor}")
    recorded = shapes(json.loads(traces[0].read_text("utf-8"))["final"])
    with Client(demo.base_url) as client:
        session = client.create_session(demo.agents[agent], allow_greeting=scenario == "greeting")
        if message:
            session.post(message)
        wait_until(
            lambda: shapes(event.raw for event in session.history()) == recorded,
            lambda: f"{shapes(event.raw for event in session.history())} is not {recorded}",
        )


@pytest.mark.parametrize("stage", ["answer", pytest.param("match", marks=pytest.mark.slow)])
def test_other_stages_that_fail(demo: SharedServer, stage: str) -> None:
    """A failing match is an error, after 5 s. A failing answer is an empty turn from 3.1 on."""
    with Client(demo.base_url) as client:
        session = client.create_session(demo.agents["quick"])
        if stage == "answer" and not demo.version.startswith("3.0"):
            assert session.send("[fail=answer] hello", timeout=30).outcome == "empty"
        else:
            with pytest.raises(AgentError, match=r"boom|Batch failed"):
                session.send(f"[fail={stage}] hello", timeout=30)
        assert session.send("again").text == "echo: again"
