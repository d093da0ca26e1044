"""Reads what the engine put into a prompt: who is to speak, and what was said so far.

Parlant hands its prompts over as named sections with their properties, so nothing has to be
parsed out of prose, except the actions of a proactive message, which only exist as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_WHO = {"user": "customer", "ai_agent": "agent", "human_service_agent": "human"}

_REQUEST = re.compile(
    r"Guideline #\d+\) (.*?)\n\s+- Rationale: (?:An external module|You must buy|You need to)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Line:
    who: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """The state of a session as the engine shows it to its language model."""

    agent: str
    lines: tuple[Line, ...] = ()
    requests: tuple[str, ...] = ()
    """What the agent was asked to say by itself (``POST`` of an agent message with guidelines)."""

    def around_last_question(self) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
        """The lines up to the customer's last, and those after it; all in the second without one."""
        for number in range(len(self.lines), 0, -1):
            if self.lines[number - 1].who == "customer":
                return self.lines[:number], self.lines[number:]
        return (), self.lines


def read(prompt: Any) -> Conversation:
    """Read a Parlant prompt (a ``PromptBuilder``)."""
    agent = ""
    lines: tuple[Line, ...] = ()
    requests: tuple[str, ...] = ()
    for name, section in prompt.sections.items():
        properties: Mapping[str, Any] = section.props
        agent = properties.get("agent_name", agent)
        if "interaction_events" in properties:
            lines = tuple(_lines(properties["interaction_events"]))
        elif "GUIDELINE" in str(getattr(name, "name", name)).upper():
            requests += _requests(section.template, properties)
    return Conversation(agent=agent, lines=lines, requests=requests)


def _lines(events: Iterable[str]) -> Iterable[Line]:
    for text in events:
        event = json.loads(text)
        if event.get("event_kind") == "message":
            who = _WHO.get(event.get("event_source", ""), "other")
            yield Line(who, str(event["data"]["message"]))


def _requests(template: str, properties: Mapping[str, Any]) -> tuple[str, ...]:
    texts = [template, *(value for value in properties.values() if isinstance(value, str))]
    return tuple(dict.fromkeys(found for text in texts for found in _REQUEST.findall(text)))
