"""How long Parlant's engine dawdles to seem human: for tests, not at all.

From Parlant 3.1 on each agent has a policy of its own. Parlant 3.0 has one for all agents, so
there it is looked up by the agent's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parlant.core.engines.alpha.perceived_performance_policy import (
    BasicPerceivedPerformancePolicy,
    PerceivedPerformancePolicy,
)


class Prompt(PerceivedPerformancePolicy):
    """No delay anywhere; a preamble in every turn or in none."""

    def __init__(self, *, preamble: bool) -> None:
        self._preamble = preamble

    async def get_processing_indicator_delay(self, context: Any = None) -> float:
        return 0.0

    async def get_extended_processing_indicator_delay(self, context: Any = None) -> float | None:
        return None

    async def get_follow_up_delay(self, context: Any = None) -> float:
        return 0.0

    async def get_preamble_delay(self, context: Any = None) -> float:
        return 0.0

    async def is_preamble_required(self, context: Any = None) -> bool:
        return self._preamble

    async def is_message_splitting_required(self, context: Any, message: str) -> bool:
        return True


class ByName(BasicPerceivedPerformancePolicy):
    """The policy of Parlant 3.0 for all agents: what *policies* says for the agent's name."""

    def __init__(self, policies: Mapping[str, Any]) -> None:
        self._policies = policies

    def _of(self, context: Any) -> Any:
        name = context.agent.name if context is not None else None
        return self._policies.get(name) or super()

    async def get_processing_indicator_delay(self, context: Any = None) -> Any:
        return await self._of(context).get_processing_indicator_delay(context)

    async def get_preamble_delay(self, context: Any = None) -> Any:
        return await self._of(context).get_preamble_delay(context)

    async def is_preamble_required(self, context: Any = None) -> Any:
        return await self._of(context).is_preamble_required(context)
