# mypy: disallow-subclassing-any=False
"""How long Parlant's engine dawdles to seem human: for tests, not at all.

From Parlant 3.1 on each agent has a policy of its own. Parlant 3.0 has one for all agents, so
there it is looked up by the agent's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parlant.core.engines.alpha.perceived_performance_policy import (
    BasicPerceivedPerformancePolicy,
    NullPerceivedPerformancePolicy,
)

# The engine asks for this without saying for which agent (3.0), and waits for it, however long,
# before it reports that guideline matching failed.
_EXTENDED_DELAY = 0.2


class Prompt(NullPerceivedPerformancePolicy):
    """No delay anywhere; a preamble in every turn or in none."""

    def __init__(self, *, preamble: bool) -> None:
        self._preamble = preamble

    async def get_extended_processing_indicator_delay(self, context: Any = None) -> Any:
        # Before 3.2 there is no "never", and at once would be an event more in many turns.
        delay = await super().get_extended_processing_indicator_delay(context)
        return None if delay is None else _EXTENDED_DELAY

    async def is_preamble_required(self, context: Any = None) -> bool:
        return self._preamble

    async def is_message_splitting_required(self, context: Any, message: str) -> bool:
        return True


class ByName(BasicPerceivedPerformancePolicy):
    """The policy of Parlant 3.0 for all agents: what *policies* says for the agent's name."""

    def __init__(self, policies: Mapping[str, Any]) -> None:
        self._policies = policies

    def _of(self, context: Any) -> Any:
        return (self._policies.get(context.agent.name) if context is not None else None) or super()

    async def get_extended_processing_indicator_delay(self, context: Any = None) -> float:
        return _EXTENDED_DELAY

    async def get_processing_indicator_delay(self, context: Any = None) -> Any:
        return await self._of(context).get_processing_indicator_delay(context)

    async def get_preamble_delay(self, context: Any = None) -> Any:
        return await self._of(context).get_preamble_delay(context)

    async def is_preamble_required(self, context: Any = None) -> Any:
        return await self._of(context).is_preamble_required(context)
