# mypy: disallow-subclassing-any=False
"""How long Parlant's engine dawdles to seem human: for tests, not at all.

From Parlant 3.1 on each agent has a policy of its own. Parlant 3.0 has one for all agents, so
there it is looked up by the agent's name.

An agent says a preamble where its policy wants one. ``[fail]`` wants one as well, because a
preamble is what the engine cannot do without: everything else it tries again for seconds, or
passes over in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parlant.core.engines.alpha.perceived_performance_policy import (
    BasicPerceivedPerformancePolicy,
    NullPerceivedPerformancePolicy,
)

from .script import parse

# Before 3.3 there is no "never"; "at once" would be an event more in many turns; and the engine
# waits for it, however long, before it reports that guideline matching failed.
_EXTENDED_DELAY = 0.2


class Prompt(NullPerceivedPerformancePolicy):
    """No delay anywhere; a preamble in every turn or in none."""

    def __init__(self, *, preamble: bool) -> None:
        self._preamble = preamble

    async def get_extended_processing_indicator_delay(self, context: Any = None) -> Any:
        delay = await super().get_extended_processing_indicator_delay(context)
        return None if delay is None else _EXTENDED_DELAY

    async def is_preamble_required(self, context: Any = None) -> bool:
        return self._preamble or _told_to_fail(context)

    async def is_message_splitting_required(self, context: Any, message: str) -> bool:
        return True


class Natural(BasicPerceivedPerformancePolicy):
    """Parlant's own pacing: a preamble in the first turns, and pauses of seconds."""

    async def is_preamble_required(self, context: Any = None) -> Any:
        return _told_to_fail(context) or await super().is_preamble_required(context)


class ByName(Natural):
    """The policy of Parlant 3.0 for all agents: what *policies* says for the agent's name."""

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


def _told_to_fail(context: Any) -> bool:
    if context is None:
        return False
    interaction = context.interaction
    events = interaction.events if hasattr(interaction, "events") else interaction.history
    for event in reversed(events):
        if event.kind.value == "message" and event.source.value == "customer":
            return parse(event.data["message"]).fails("preamble")
    return False
