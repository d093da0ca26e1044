"""The agents that this server hosts, and how they are made on each Parlant version."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import parlant.sdk as p
from parlant.core.guidelines import GuidelineStore
from parlant.core.tags import Tag

from . import pacing
from .replies import Voice


@dataclass(frozen=True)
class Role:
    """One agent. ``preamble``: in every turn, in none, or (None) as Parlant's own pacing has it."""

    name: str
    description: str
    condition: str
    collection: str | None = None
    echo: str = "echo: "
    streams: bool = False
    preamble: bool | None = None

    def voice(self) -> Voice:
        return Voice(collection=self.collection, echo=self.echo)

    def policy(self) -> pacing.Prompt | pacing.Natural:
        return pacing.Natural() if self.preamble is None else pacing.Prompt(preamble=self.preamble)


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

_ANYTHING = "the customer said something"

TEST: Mapping[str, Role] = {
    "quick": Role("Quick", "Answers at once.", _ANYTHING, preamble=False),
    "streamer": Role(
        "Streamer",
        "Answers at once, word by word.",
        _ANYTHING,
        echo="streamed echo of: ",
        streams=True,
        preamble=False,
    ),
    "hesitant": Role("Hesitant", "Says a preamble first.", _ANYTHING, preamble=True),
}


def choose(names: Iterable[str], *, test_agents: bool) -> dict[str, Role]:
    """The roles to host. Raises KeyError for a name that there is no agent of."""
    return {**{name: DEMO[name] for name in names}, **(TEST if test_agents else {})}


async def create(server: Any, roles: Mapping[str, Role]) -> dict[str, str]:
    """Create the agents in *server* and return their ids by name."""
    return {name: await _create(server, name, role) for name, role in roles.items()}


async def _create(server: Any, name: str, role: Role) -> str:
    options = {
        "id": name,
        "perceived_performance_policy": role.policy(),
        "output_mode": p.OutputMode.STREAM if role.streams and hasattr(p, "OutputMode") else None,
    }
    known = inspect.signature(server.create_agent).parameters
    agent = await server.create_agent(
        name=role.name,
        description=role.description,
        **{key: value for key, value in options.items() if key in known and value is not None},
    )
    # An observation that the engine has to match in every turn. Made in the store, because the
    # SDK would have it evaluated first, which takes its time and nothing here depends on.
    store = agent._container[GuidelineStore]
    tag = Tag.for_agent_id(agent.id)
    await store.create_guideline(condition=role.condition, tags=[getattr(tag, "id", tag)])
    return str(agent.id)
