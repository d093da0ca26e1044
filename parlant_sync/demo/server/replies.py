"""Decides what an agent says. Pure: a conversation in, a text out."""

from __future__ import annotations

from .conversation import PREAMBLES, Conversation
from .knowledge import Collection, load
from .script import Script, parse

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

    def asked(self, conversation: Conversation) -> Script:
        """What is to be answered: the customer's message, or what the agent was asked to say."""
        if conversation.requests:
            asked = [parse(request) for request in conversation.requests]
            return next((request for request in asked if request.directives), asked[0])
        return parse(conversation.question or "")

    def preamble(self, conversation: Conversation) -> str:
        return PREAMBLES[1] if self._collection is None else PREAMBLES[0]

    def relevant(self, conversation: Conversation) -> bool:
        """Whether the agent's one guideline ("the customer asks about my field") applies."""
        return self._collection is not None and self._collection.knows(_said(conversation))

    def answer(self, conversation: Conversation) -> str:
        """The answer; its messages are separated by blank lines, which is where Parlant splits."""
        asked = self.asked(conversation)
        if "silent" in asked:
            return ""
        if conversation.requests:
            first = "as asked: " + "; ".join(parse(request).text for request in conversation.requests)
        elif self._collection is None or asked.directives:
            first = self._test_answer(conversation, asked)
        else:
            first = self._collection.answer(_said(conversation), _told(conversation))
        return "\n\n".join([first, *(_part(n) for n in range(2, asked.parts + 1))])

    def _test_answer(self, conversation: Conversation, asked: Script) -> str:
        if conversation.question is not None:
            return self._echo + asked.text
        spoken = any(line.who == "customer" for line in conversation.lines)
        return "proactive message" if spoken else self._echo + "(greeting)"


def _part(number: int) -> str:
    return f"{_ORDINALS[number - 2]} part" if number < 11 else f"part {number}"


def _said(conversation: Conversation) -> list[str]:
    said = [parse(line.text).text for line in conversation.lines if line.who == "customer"]
    return said if conversation.question is not None else [*said, ""]


def _told(conversation: Conversation) -> list[str]:
    return [line.text for line in conversation.lines if line.who == "agent"]
