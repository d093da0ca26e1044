"""The agents that this server hosts, and how they are made on each version of Parlant."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import parlant.sdk as p
from parlant.core.sessions import SessionStore
from parlant.core.tools import ToolId

from . import hooks
from .replies import Voice

try:
    from parlant.core.guideline_tool_associations import GuidelineToolAssociationStore
    from parlant.core.guidelines import GuidelineStore
    from parlant.core.tags import Tag
except ImportError:  # from Parlant 4.0 on, guidelines are rules, and tags are groups
    from parlant.core.groups import GroupIds
    from parlant.core.rule_tool_associations import RuleToolAssociationStore
    from parlant.core.rules import RuleStore

    RULES = True
else:
    RULES = False

_ANYTHING = "the customer said something"


@dataclass(frozen=True)
class Role:
    """One agent.

    ``preamble``: in every turn, in none, or (None) as Parlant's own pacing decides. ``made``: by the SDK with its
    default mode ("sdk") or with the mode "strict" or "composited", or by ``POST /agents`` ("rest").
    """

    name: str
    description: str
    condition: str = _ANYTHING
    collection: str | None = None
    echo: str = "echo: "
    streams: bool = False
    preamble: bool | None = None
    made: str = "sdk"

    def voice(self) -> Voice:
        return Voice(collection=self.collection, echo=self.echo)

    def policy(self) -> Any:
        return hooks.Natural() if self.preamble is None else hooks.Prompt(preamble=self.preamble)


DEMO: Mapping[str, Role] = {
    "research": Role(
        name="Research Papers",
        description="Explains research papers, methods and publishing, from a small collection.",
        condition="the customer asks about research papers or methods",
        collection="research",
    ),
    "welfare": Role(
        name="Medical Welfare",
        description="Explains medical welfare in Japan in general terms, from a small collection.",
        condition="the customer asks about medical welfare",
        collection="welfare",
        streams=True,
    ),
}

# "rest-natural-block", "strict-prompt-stream", ...: every way to make an agent, with Parlant's own pacing or with none
# and no preambles, answering in one piece or word by word.
MATRIX: Mapping[str, Role] = {
    f"{made}-{pace}-{output}": Role(
        name=f"{made} {pace} {output}".title(),
        description=f"Made as {made}, {pace} pace, {output} output.",
        streams=output == "stream",
        preamble=None if pace == "natural" else False,
        made=made,
    )
    for made, pace, output in itertools.product(
        ("rest", "sdk", "strict", "composited"), ("natural", "prompt"), ("block", "stream")
    )
}

TEST: Mapping[str, Role] = {
    "quick": Role("Quick", "Answers at once.", preamble=False),
    "streamer": Role(
        "Streamer", "Answers at once, word by word.", echo="streamed echo of: ", streams=True, preamble=False
    ),
    "hesitant": Role("Hesitant", "Says a preamble first.", preamble=True),
    **MATRIX,
}


class Agents:
    """Creates the agents in a server; ``ids`` has their ids by name."""

    def __init__(self, server: Any, roles: Mapping[str, Role]) -> None:
        self.ids: dict[str, str] = {}
        self._server = server
        self._roles = roles
        self._container: Any = None
        self._tool = hooks.make_tool(self._sessions)

    def _sessions(self) -> Any:
        return self._container[SessionStore]

    async def create(self) -> None:
        """Create those that the SDK makes; before the server listens."""
        await self._server._plugin_server.enable_tool(self._tool)
        for name, role in self._roles.items():
            if role.made != "rest":
                await self._create(name, role)

    async def create_over_rest(self, base_url: str) -> None:
        """Create or change the others, as any program may do; after the server listens."""
        for name, role in self._roles.items():
            streams = {"message_output_mode": "stream"} if role.streams and hasattr(p, "OutputMode") else {}
            if role.made == "rest":
                body = {"name": role.name, "description": role.description, **streams}
                made = await asyncio.to_thread(_request, "POST", f"{base_url}/agents", body)
                self.ids[name] = made["id"]
                if provider := getattr(p, "PerceivedPerformancePolicyProvider", None):
                    self._container[provider].set_policy(self.ids[name], role.policy())
                await self._add_guideline(name, role)
            elif role.made != "sdk" and streams:  # the SDK refuses this combination
                await asyncio.to_thread(_request, "PATCH", f"{base_url}/agents/{self.ids[name]}", streams)

    async def _create(self, name: str, role: Role) -> None:
        modes: dict[str, Any] = {"strict": p.CompositionMode.STRICT, "composited": p.CompositionMode.COMPOSITED}
        mode = modes.get(role.made)
        options = {
            "id": name,
            "perceived_performance_policy": role.policy(),
            "composition_mode": mode,
            "output_mode": p.OutputMode.STREAM if role.streams and not mode and hasattr(p, "OutputMode") else None,
            "engine": "compass",  # 4.0 has two, but in 4.0.0a1 each turn of the other one fails
            "description": role.description,
            "prompt": role.description,  # what 4.0 calls it
        }
        known = inspect.signature(self._server.create_agent).parameters
        agent = await self._server.create_agent(
            name=role.name,
            **{key: value for key, value in options.items() if key in known and value is not None},
        )
        self._container = agent._container
        self.ids[name] = str(agent.id)
        if role.made == "strict":  # without a canned response the engine would not even ask for a draft
            await agent.create_canned_response("A canned response that never fits.")
        await self._add_guideline(name, role)

    async def _add_guideline(self, name: str, role: Role) -> None:
        """Add an observation that the engine has to match in every turn; the tool belongs to it.

        Created in the store, because the SDK would have it evaluated first, which takes time and which nothing here
        depends on.
        """
        tool = ToolId(service_name=p.INTEGRATED_TOOL_SERVICE_NAME, tool_name=self._tool.tool.name)
        if RULES:
            group = GroupIds.for_agent_id(self.ids[name])
            rule = await self._container[RuleStore].create_rule(condition=role.condition, groups=[group])
            if role.collection is None:
                await self._container[RuleToolAssociationStore].create_association(rule_id=rule.id, tool_id=tool)
            return
        tag = Tag.for_agent_id(self.ids[name])
        guideline = await self._container[GuidelineStore].create_guideline(
            condition=role.condition, tags=[getattr(tag, "id", tag)]
        )
        if role.collection is None:
            await self._container[GuidelineToolAssociationStore].create_association(
                guideline_id=guideline.id, tool_id=tool
            )


def _request(method: str, url: str, body: Mapping[str, Any]) -> Any:
    request = urllib.request.Request(
        url, method=method, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
        return json.load(answer)
