"""``parlant-sync conversations``."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from parlant_sync.cli import output, transcript
from parlant_sync.cli.app import App
from parlant_sync.cli.conversations import forget as forget_file
from parlant_sync.cli.conversations import stored
from parlant_sync.cli.errors import usage
from parlant_sync.cli.options import Group, argument, option, pass_app
from parlant_sync.cli.output import one_line
from parlant_sync.cli.target import STATE_DIR, WAIT_LOCK, existing, found
from parlant_sync.cli.terminal import pad, waiting_for, width

_AGENT = option("--agent-id", metavar="ID", help="The agent, if NAME is kept with several.")


@click.group(cls=Group)
def conversations() -> None:
    """List, show and forget the conversations that --conversation keeps."""


@conversations.command("list")
@STATE_DIR
@pass_app
def list_(app: App, /, state_dir: str | None) -> None:
    """List the conversations kept on this machine.

    One per line: name, agent, session and server.
    """
    kept = stored(state_dir)
    fields = ("name", "agent_id", "session_id", "server")
    if app.json:
        for each in kept:
            output.answer_json({name: each[name] for name in fields})
        return
    rows = [[one_line(each[name]) for name in fields] for each in kept]
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        output.answer("  ".join(map(pad, row, widths)).rstrip())
    if not rows:
        output.note('no conversations are kept; parlant-sync send --conversation NAME "..." starts one')


@conversations.command(formats=transcript.FORMATS)
@argument("conversation", values="conversation", metavar="NAME")
@_AGENT
@option("--search", metavar="TEXT", help="Only messages with TEXT in them.")
@STATE_DIR
@pass_app
def show(app: App, /, conversation: str, search: str | None, **options: Any) -> None:
    """Show a conversation as a transcript, as sessions show does."""
    wanted = existing({**options, "conversation": conversation, "session_id": None})
    with app.client() as client, found(app, client, wanted) as session:
        with waiting_for(client.base_url, client):
            events = session.history()
    if search is not None:
        events = [event for event in events if search.casefold() in (event.message or "").casefold()]
    transcript.write(session, events, app.output)


@conversations.command()
@argument("name", values="conversation", metavar="NAME")
@_AGENT
@STATE_DIR
@WAIT_LOCK
@pass_app
def forget(app: App, /, name: str, agent_id: str | None, state_dir: str | None, wait_lock: float | None) -> None:
    """Forget a conversation: the next run starts a new session.

    Only this machine forgets it. Delete its session on the server with
    parlant-sync sessions delete.
    """
    kept = stored(state_dir)
    matching = [
        each
        for each in kept
        if each["name"] == name
        and agent_id in (None, each["agent_id"])
        and (app.server is None or each["server"] == app.server.rstrip("/"))
    ]
    if not matching:
        near = get_close_matches(name, [each["name"] for each in kept], 1)
        hint = f"did you mean {near[0]!r}?" if near else f"{app.again('conversations', 'list')} lists them"
        raise usage(f"no conversation {name!r} is kept here; {hint}")
    if len(matching) > 1:
        several = ", ".join(f"{each['agent_id']} on {each['server']}" for each in matching)
        raise usage(f"{name!r} is kept several times; say which with --agent-id and --server: {several}")
    [one] = matching
    forget_file(Path(one["path"]), name, wait_lock)
    if app.json:
        output.answer_json({"name": name, "session_id": one["session_id"], "forgotten": True})
    else:
        output.note(f"forgot {name!r}; its session {one['session_id']} is still on the server")
