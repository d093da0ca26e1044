"""What the shell offers as values of options: agents, sessions, conversations, profiles, kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from parlant_sync.cli import config
from parlant_sync.cli.app import App

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

_PATIENCE = 2.0  # seconds to wait for a server after the Tab key
_MOST = 50
KINDS = ("message", "status", "tool", "custom")
SOURCES = ("customer", "customer_ui", "ai_agent", "human_agent", "human_agent_on_behalf_of_ai_agent", "system")


def _agents(app: App) -> Iterable[tuple[str, str | None]]:
    with app.client(request_timeout=_PATIENCE, connect_timeout=_PATIENCE) as client:
        return [(agent.id, agent.name) for agent in client.agents()]


def _sessions(app: App) -> Iterable[tuple[str, str | None]]:
    with app.client(request_timeout=_PATIENCE, connect_timeout=_PATIENCE) as client:
        return [(info.id, info.title) for info in islice(client.list_sessions(), _MOST)]


def _conversations(_: App) -> Iterable[tuple[str, str | None]]:
    from parlant_sync.cli.conversations import stored

    return [(str(each["name"]), str(each["agent_id"])) for each in stored(None)]


_FROM: dict[str, Callable[[App], Iterable[tuple[str, str | None]]]] = {
    "agent_id": _agents,
    "session_id": _sessions,
    "conversation": _conversations,
    "profile": lambda _: [(name, None) for name in config.names()],
    "kinds": lambda _: [(kind, None) for kind in KINDS],
    "sources": lambda _: [(source, None) for source in SOURCES],
}


def teach_fish() -> None:
    """Make fish take completions as a whole: click's script cuts them and their descriptions at a comma."""
    from click.shell_completion import FishComplete, add_completion_class

    class Fish(FishComplete):
        source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')

    add_completion_class(Fish)


def values(ctx: click.Context, name: str, incomplete: str) -> list[CompletionItem] | None:
    """The values that begin with ``incomplete``; None for an option that has no list, empty if it cannot be read."""
    from click.shell_completion import CompletionItem

    app = ctx.find_object(App)
    if app is None or name not in _FROM:
        return None
    try:
        found = list(_FROM[name](app))
    except Exception:  # an error text would only disturb the line that is being typed
        return []
    # A list separated by commas is completed at its end.
    before, comma, last = incomplete.rpartition(",") if name in ("kinds", "sources") else ("", "", incomplete)
    return [CompletionItem(before + comma + value, help=words) for value, words in found if value.startswith(last)]
