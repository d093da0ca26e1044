# mypy: disallow-subclassing-any=False
"""The parts of the engine that a server's author may replace, as the directives ask: pacing, hooks, and a tool.

Also the answer of a strict agent. It may only use canned responses, and has none that fits, so the engine asks what to
say instead; here that is the draft.
"""

# No "from __future__ import annotations": Parlant reads the annotations of a tool as they are.

from collections.abc import Mapping
from typing import Any

import parlant.sdk as p
from parlant.core.engines.alpha.canned_response_generator import BasicNoMatchResponseProvider
from parlant.core.engines.alpha.hooks import EngineHookResult
from parlant.core.engines.alpha.perceived_performance_policy import (
    BasicPerceivedPerformancePolicy,
    NullPerceivedPerformancePolicy,
)
from parlant.core.sessions import EventKind, EventSource

from .directives import Script, ScriptedFailure, parse

# Before 3.3 there is no "never". "At once" would add an event to many turns. The engine waits for this delay before it
# reports that guideline matching failed.
_EXTENDED_DELAY = 0.2


def _asked(context: Any) -> Script:
    """What the customer's last message asks for."""
    interaction = context.interaction if context is not None else None
    events = getattr(interaction, "events", None) or getattr(interaction, "history", None) or ()
    return _last(events)


def _last(events: Any) -> Script:
    for event in reversed(events):
        if event.kind == EventKind.MESSAGE and event.source == EventSource.CUSTOMER:
            return parse(event.data["message"])
    return Script("")


# -- pacing: how long the engine waits to seem human -------------------------------------------


class Prompt(NullPerceivedPerformancePolicy):
    """No delay anywhere; a preamble in every turn or in none.

    ``[fail]`` also asks for a preamble. The engine cannot do without one that it wants: everything else it tries again
    for seconds, or passes over in silence.
    """

    def __init__(self, *, preamble: bool) -> None:
        self._preamble = preamble

    async def get_extended_processing_indicator_delay(self, context: Any = None) -> Any:
        delay = await super().get_extended_processing_indicator_delay(context)
        return None if delay is None else _EXTENDED_DELAY

    async def is_preamble_required(self, context: Any = None) -> bool:
        return self._preamble or _asked(context).fails("preamble")

    async def is_message_splitting_required(self, context: Any, message: str) -> bool:
        return True


class Natural(BasicPerceivedPerformancePolicy):
    """Parlant's own pacing: a preamble in the first turns, and pauses of seconds."""

    async def is_preamble_required(self, context: Any = None) -> Any:
        return _asked(context).fails("preamble") or await super().is_preamble_required(context)


class ByName(Natural):
    """The policy of Parlant 3.0 for all agents: the one that *policies* has for the agent's name."""

    def __init__(self, policies: Mapping[str, Any]) -> None:
        self._policies = policies

    def _of(self, context: Any) -> Any:
        return (self._policies.get(context.agent.name) if context is not None else None) or super()

    async def get_extended_processing_indicator_delay(self, context: Any = None) -> float:
        return _EXTENDED_DELAY  # asked for without a context, so for all agents alike

    async def get_processing_indicator_delay(self, context: Any = None) -> Any:
        return await self._of(context).get_processing_indicator_delay(context)

    async def get_preamble_delay(self, context: Any = None) -> Any:
        return await self._of(context).get_preamble_delay(context)

    async def is_preamble_required(self, context: Any = None) -> Any:
        return await self._of(context).is_preamble_required(context)


# -- hooks -------------------------------------------------------------------------------------


async def install(hooks: Any) -> Any:
    """Add ours to the engine's hooks."""
    hooks.on_acknowledged.append(_acknowledged)
    hooks.on_generating_messages.append(_generating)
    hooks.on_message_generated.append(_generated)
    return hooks


async def _acknowledged(context: Any, payload: Any, error: Any) -> Any:
    what = _asked(context).get("hook")
    if what in ("answers", "greets"):
        trace = context.tracer.trace_id if hasattr(context, "tracer") else context.correlator.correlation_id
        await context.session_event_emitter.emit_message_event(trace, f"the hook {what}")
    return EngineHookResult.BAIL if what == "answers" else EngineHookResult.CALL_NEXT


async def _generating(context: Any, payload: Any, error: Any) -> Any:
    asked = _asked(context)
    if asked.fails("hook"):
        raise ScriptedFailure("a hook")
    return EngineHookResult.BAIL if asked.get("hook") == "stops" else EngineHookResult.CALL_NEXT


async def _generated(context: Any, payload: Any, error: Any) -> Any:
    return EngineHookResult.BAIL if _asked(context).get("hook") == "drops" else EngineHookResult.CALL_NEXT


# -- the tool ----------------------------------------------------------------------------------


def make_tool(sessions: Any) -> Any:
    """The tool of the test agents. *sessions* gives the session store."""

    @p.tool  # type: ignore[untyped-decorator]
    async def act(context: p.ToolContext) -> p.ToolResult:
        store = sessions()
        what = _last(await store.list_events(context.session_id)).get("tool")
        if what in ("ready", "error"):
            await context.emit_status(what)
        elif what == "message":
            await context.emit_message("the tool speaks")
        elif what == "custom":
            await context.emit_custom({"by": "the tool"})
        return p.ToolResult(data={"did": what}, control={"mode": "manual"} if what == "manual" else {})

    return act


class SayTheDraft(BasicNoMatchResponseProvider):
    """Lets a strict agent say what it would have said freely."""

    async def get_template(self, context: Any, draft: Any) -> Any:
        return draft or await super().get_template(context, draft)
