"""What an agent reads from Parlant's prompts, and what it says."""

from __future__ import annotations

import json
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from parlant_sync.demo.server.replies import Conversation, Line, Voice, read


def prompt(*events: tuple[str, str], agent: str = "Quick", guidelines: str = "") -> Any:
    """A prompt as the engine builds it, reduced to what is read."""
    history = [
        json.dumps({"event_kind": "message", "event_source": source, "data": {"participant": "x", "message": text}})
        for source, text in events
    ]
    history.insert(0, json.dumps({"event_kind": "tool", "event_source": "ai_agent", "data": {"tool_calls": []}}))
    sections = {
        "AGENT_IDENTITY": {"agent_name": agent, "agent_description": "d"},
        "INTERACTION_HISTORY": {"interaction_events": history},
        "GUIDELINES": {"text": guidelines},
        "other": {"count": 3},
    }
    # Parlant's own sections have enumerated names, others strings.
    names = Enum("names", list(sections))  # type: ignore[misc]
    return SimpleNamespace(
        sections={names[name]: SimpleNamespace(template="", props=props) for name, props in sections.items()}
    )


def conversation(*lines: tuple[str, str], requests: tuple[str, ...] = ()) -> Conversation:
    return Conversation("Quick", tuple(Line(who, text) for who, text in lines), requests)


def test_a_prompt_tells_what_the_agent_was_asked_to_say() -> None:
    guidelines = """When crafting your reply, ...
Guideline #1) [slow=1] offer help
      - Rationale: An external module has determined that this response is necessary, and you must adhere to it.
Guideline #2) say when
you are back
      - Rationale: You need to follow up with the customer.
Guideline #3) When it rains, then say so
      - Rationale: It rains.
"""
    assert read(prompt(("user", "hi"), guidelines=guidelines)).requests == (
        "[slow=1] offer help",
        "say when\nyou are back",
    )


@pytest.mark.parametrize(
    ("later", "is_open"),
    [
        ((), True),
        ((("agent", "Let me see."),), True),
        ((("agent", "second part"), ("agent", "third part")), True),
        ((("agent", "echo: "),), True),
        ((("agent", "echo: hi"),), False),
        ((("agent", "Let me see."), ("agent", "echo: hi"), ("agent", "as asked: x")), False),
        ((("human", "I take over"),), False),
    ],
)
def test_a_message_is_open_until_its_answer_was_given(later: tuple[tuple[str, str], ...], is_open: bool) -> None:
    state = conversation(("customer", "[parts=2] ho"), ("agent", "echo: ho"), ("customer", "hi"), *later)
    assert Voice().asked(state).text == ("hi" if is_open else "")
    assert Voice().answer(state) == ("echo: hi" if is_open else "proactive message")


def test_a_streamed_answer_of_several_parts_was_given_as_one() -> None:
    asked = ("customer", "[parts=2] hi")
    assert Voice().answer(conversation(asked, ("agent", "echo: hi\n\nsecond part"))) == "proactive message"
    assert Voice().answer(conversation(asked, ("agent", "echo: hi"), ("agent", "second part"))) == "proactive message"


def test_speaking_by_itself() -> None:
    assert Voice().answer(conversation()) == "echo: (greeting)"
    assert Voice().answer(conversation(("agent", "Let me see."))) == "echo: (greeting)"
    assert Voice().answer(conversation(("customer", "a"), ("agent", "echo: a"))) == "proactive message"
    asked = conversation(("customer", "[silent] a"), requests=("say hi", "[parts=2] and bye"))
    assert Voice().answer(asked) == "as asked: say hi; and bye\n\nsecond part"
