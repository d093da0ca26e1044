# mypy: disallow-subclassing-any=False
"""What Compass, the second engine of Parlant 4.0, asks of an NLP service: one step after another of an agent's loop.

Its prompts are prose. So this reads the conversation where the engine has it, as a hook may.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from parlant.core.cost_control import CostControlPolicy, CostVerdict, WorkKind
from parlant.core.engines.entity_context import EntityContext
from parlant.core.nlp.react import ReactGenerator, ReasoningDelta, Role, TextDelta, ToolCallStarted
from parlant.core.sessions import EventKind, EventSource

from .directives import Script, ScriptedFailure
from .replies import Conversation, Line

_WHO = {
    EventSource.CUSTOMER: "customer",
    EventSource.AI_AGENT: "agent",
    EventSource.HUMAN_AGENT_ON_BEHALF_OF_AI_AGENT: "agent",
    EventSource.HUMAN_AGENT: "human",
}
_THOUGHTS = ("Let me ", "think ", "about it.")


def conversation() -> Conversation:
    """The conversation of the turn that runs in this task."""
    context = EntityContext.get()
    messages = [event for event in context.interaction.events if event.kind == EventKind.MESSAGE]
    lines = tuple(Line(_WHO.get(event.source, "other"), str(event.data["message"])) for event in messages)
    return Conversation(agent=context.agent.name, lines=lines)


class Reactor(ReactGenerator):
    """Makes the steps of a turn: perhaps a thought, perhaps the tool, and then the answer, word by word."""

    def __init__(self, cast: Any) -> None:
        super().__init__(model="parlant-sync-demo")
        self._cast = cast

    @property
    def provider_name(self) -> str:
        return "parlant-sync-demo"

    async def _should_prefill(self, *args: Any) -> bool:
        return False

    def _encode(self, history: Any, tools: Any, tool_choice: Any, **options: Any) -> Any:
        last = next((n for n in reversed(range(len(history))) if history[n].role is Role.USER), 0)
        called = any(message.role is Role.TOOL for message in history[last:])
        return [] if called else [tool.name for tool in tools]

    async def _raw_stream(self, request: Sequence[str]) -> AsyncIterator[Any]:
        state = conversation()
        asked: Script = self._cast.asked(state)
        if asked.fails("preamble"):
            raise ScriptedFailure("the answer")
        if "think" in asked:
            for thought in _THOUGHTS:
                yield ReasoningDelta(text=thought)
        if "tool" in asked and request:
            yield ToolCallStarted(id="call", name=request[0])
            return
        async for word in self._cast.stream(state):
            if word is not None:
                yield TextDelta(text=word)

    def _decode(self, raw_event: Any, builder: Any) -> Sequence[Any]:
        if isinstance(raw_event, TextDelta):
            builder.text_delta(raw_event.text)
        elif isinstance(raw_event, ReasoningDelta):
            builder.reasoning_delta(raw_event.text)
        else:
            builder.tool_call(raw_event.id, name=raw_event.name, args={})
        return [raw_event]


class CostControl(CostControlPolicy):
    """Refuses the turns that ask for it."""

    def __init__(self, cast: Any) -> None:
        self._cast = cast

    def report(self, trace_id: str, model: str, usage: Any) -> None:
        pass

    async def check(self, context: Any, kind: Any) -> Any:
        seconds = self._cast.asked(conversation()).get("refuse") if kind is WorkKind.TURN else None
        if seconds is None:
            return CostVerdict(allowed=True)
        again = datetime.now(timezone.utc) + timedelta(seconds=float(seconds))
        return CostVerdict(allowed=False, retry_after_utc=again, reason="the script says so", scope="session")
