"""``parlant-sync agents``."""

from __future__ import annotations

import click

from parlant_sync.cli import output
from parlant_sync.cli.app import App
from parlant_sync.cli.options import Command, pass_app
from parlant_sync.cli.terminal import pad, waiting_for, width


@click.command(cls=Command)
@pass_app
def agents(app: App) -> None:
    """List the agents of the server.

    One per line: id, name, description. With -o json, one object per line.
    """
    with app.client() as client:
        with waiting_for(client.base_url, client):
            found = client.agents()
    widest = max((width(agent.id) for agent in found), default=0)
    for agent in found:
        if app.json:
            output.answer_json({"id": agent.id, "name": agent.name, "description": agent.description})
        else:
            words = [pad(agent.id, widest), agent.name, agent.description or ""]
            output.answer(" ".join("  ".join(filter(None, words)).splitlines()))
    if not found:
        output.note(f"{client.base_url} has no agents")
