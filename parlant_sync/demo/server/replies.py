"""Reads a prompt of the engine and decides what the agent says.

Parlant hands its prompts over as named sections with their properties. So nothing has to be parsed out of prose, except
the actions of a message that the agent is asked to send by itself, which only exist as text. The decision itself is
pure: a conversation in, a text out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .directives import Script, parse
from .knowledge import Collection, load

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


def read(prompt: Any, known: Conversation | None = None) -> Conversation:
    """Read a Parlant prompt (a ``PromptBuilder``); ``known``: the conversation, if it need not be read from that."""
    agent = known.agent if known is not None else ""
    lines: tuple[Line, ...] = known.lines if known is not None else ()
    requests: tuple[str, ...] = ()
    for name, section in prompt.sections.items():
        properties: Mapping[str, Any] = section.props
        agent = properties.get("agent_name", agent)
        if "interaction_events" in properties and known is None:
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


_ORDINALS = "second third fourth fifth sixth seventh eighth ninth tenth".split()


class Voice:
    """How an agent speaks: about a collection, or as a test's echo."""

    def __init__(self, *, collection: str | None = None, echo: str = "echo: ") -> None:
        self._collection: Collection | None = load(collection) if collection else None
        self._echo = echo

    @property
    def pace(self) -> float:
        """Pause between streamed words: an agent that knows something is nicer to read slowly."""
        return 0.0 if self._collection is None else 0.02

    def preamble(self) -> str:
        return "Let me see." if self._collection is None else "Let me look that up."

    def relevant(self, conversation: Conversation) -> bool:
        """Whether the agent's one guideline applies: it is about the agent's field, or about a test's tool."""
        if self._collection is None:
            return "tool" in self.asked(conversation)
        return self._collection.knows(_said(conversation.lines))

    def asked(self, conversation: Conversation) -> Script:
        """What the turn is about: a customer's message, or what the agent is asked to say."""
        if conversation.requests:
            asked = [parse(request) for request in conversation.requests]
            return next((request for request in asked if request.directives), asked[0])
        lines, _ = conversation.around_last_question()
        return parse(lines[-1].text) if self._is_open(conversation) else Script("")

    def answer(self, conversation: Conversation) -> str:
        """The answer; its messages are separated by blank lines, which is where Parlant splits."""
        if conversation.requests:
            if "silent" in self.asked(conversation):
                return ""
            texts = [parse(request).text for request in conversation.requests]
            return _in_parts("as asked: " + "; ".join(texts), self.asked(conversation))
        lines, _ = conversation.around_last_question()
        return self._reply(lines) if self._is_open(conversation) else self._by_itself(lines)

    def _is_open(self, conversation: Conversation) -> bool:
        """Whether the customer's last message is still to be answered.

        What was said after it tells nothing: it may be a preamble, or the end of a turn that the
        message came into. So the agent looks for the answer that it would give.
        """
        lines, later = conversation.around_last_question()
        if not lines or any(line.who == "human" for line in later):
            return False
        answer = self._reply(lines)
        answers = (answer.strip(), answer.strip().partition("\n\n")[0])  # whole if streamed
        return not any(line.who == "agent" and line.text.strip() in answers for line in later)

    def _reply(self, lines: Sequence[Line]) -> str:
        """The answer to the customer's message that *lines* end with."""
        asked = parse(lines[-1].text)
        if "silent" in asked:
            return ""
        if self._collection is None or asked.directives:
            return _in_parts(self._echo + asked.text, asked)
        return self._collection.answer(_said(lines), [line.text for line in lines if line.who == "agent"])

    def _by_itself(self, lines: Sequence[Line]) -> str:
        if self._collection is not None:
            return self._collection.answer([*_said(lines), ""])
        return "proactive message" if lines else self._echo + "(greeting)"


def _in_parts(first: str, asked: Script) -> str:
    further = (f"{_ORDINALS[n - 2]} part" if n < 11 else f"part {n}" for n in range(2, asked.parts + 1))
    return "\n\n".join([first, *further])


def _said(lines: Sequence[Line]) -> list[str]:
    return [parse(line.text).text for line in lines if line.who == "customer"]
