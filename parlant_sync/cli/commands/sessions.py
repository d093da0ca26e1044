"""``parlant-sync sessions``."""

from __future__ import annotations

from itertools import islice
from typing import Any

import click

from parlant_sync import Event, NotFoundError, Session, SessionInfo
from parlant_sync.cli import output
from parlant_sync.cli.errors import REFUSED, CommandError, usage
from parlant_sync.cli.formats import speaker
from parlant_sync.cli.options import App, Group, option, pass_app, typed
from parlant_sync.cli.output import one_line
from parlant_sync.cli.target import attach, create_session
from parlant_sync.cli.terminal import Paragraphs, waiting_for


@click.group(cls=Group)
def sessions() -> None:
    """List, show, create and delete sessions."""


@sessions.command("list")
@option("--agent-id", metavar="ID", help="Only those with this agent.")
@option("--customer-id", metavar="ID", help="Only those of this customer.")
@option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many.")
@pass_app
def list_(app: App, /, agent_id: str | None, customer_id: str | None, limit: int | None) -> None:
    """List the sessions of the server.

    One a line: its id, agent, customer, time of creation, title.
    """
    with app.client() as client, waiting_for(client.base_url) as waiting:
        for info in islice(client.list_sessions(agent_id=agent_id, customer_id=customer_id), limit):
            waiting.hide()
            if app.json:
                output.answer_json(_json(info))
            else:
                fields = [info.id, info.agent_id, info.customer_id, _time(info), info.title or ""]
                output.answer("  ".join(one_line(field) for field in fields).rstrip())


@sessions.command()
@click.argument("session", required=False, metavar="[ID]")
@option("--session-id", metavar="ID", help="The same as ID.")
@pass_app
def show(app: App, /, session: str | None, session_id: str | None) -> None:
    """Show a session and what was said in it.

    With -o json one object, with all its events.
    """
    wanted = _wanted((session,) if session else (), session_id, "show")
    if len(wanted) > 1:
        raise usage("sessions show shows one session: give ID or --session-id, not both")
    with app.client() as client:
        found = attach(app, client, wanted[0])
        with waiting_for(client.base_url):
            events = found.history()
    if app.json:
        output.answer_json({**_json(found), "events": [event.raw for event in events]})
    else:
        _show(found, events)


def _show(session: Session, events: list[Event]) -> None:
    facts: dict[str, Any] = {
        "session": session.id,
        "agent": session.agent_id,
        "customer": session.customer_id,
        "created": _time(session),
        "title": session.title,
        "mode": session.mode,
        "labels": ", ".join(session.labels),
        "metadata": output.to_json(session.metadata) if session.metadata else "",
        "events": len(events),
    }
    for name, value in facts.items():
        if value or value == 0:
            output.answer(f"{name:<9} {one_line(str(value))}")
    for event in events:
        if event.kind == "message":
            output.answer(f"\n{one_line(speaker(event, session.agent_id))}{' (preamble)' if event.is_preamble else ''}")
            paragraphs = Paragraphs(output.write)
            paragraphs.feed(event.message or "")
            paragraphs.end()


@sessions.command()
@option("--agent-id", metavar="ID", help="The agent; may be left out where there is one.")
@option("--customer-id", metavar="ID", help="The customer.  [a guest]")
@option("--title", help="Its title.")
@pass_app
def create(app: App, /, agent_id: str | None, customer_id: str | None, title: str | None) -> None:
    """Create a session and print its id."""
    output.check()
    with app.client() as client:
        session = create_session(app, client, agent_id, customer_id=customer_id, title=title)
        if app.json:
            output.answer_json(_json(session))
        else:
            output.answer(session.id)


@sessions.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@option("--session-id", metavar="ID", help="The same as ID.")
@pass_app
def delete(app: App, /, ids: tuple[str, ...], session_id: str | None) -> None:
    """Delete sessions on the server, with all that was said in them.

    One that is not there stops none of the others.
    """
    wanted = _wanted(ids, session_id, "delete")
    missing: list[str] = []
    with app.client() as client:
        for each in wanted:
            try:
                with waiting_for(client.base_url):
                    client.delete_session(each)
            except NotFoundError:
                missing.append(each)
                continue
            if app.json:
                output.answer_json({"session_id": each, "deleted": True})
            else:
                app.info(f"deleted session {each}")
        if missing:
            names = ", ".join(map(repr, missing))
            what = f"no session {names} on {client.base_url}; {app.again('sessions', 'list')} lists them"
            raise CommandError(REFUSED, what)


def _wanted(ids: tuple[str, ...], session_id: str | None, command: str) -> tuple[str, ...]:
    """The arguments and --session-id; from the environment that counts only where there is no argument."""
    if session_id and (typed("session_id") or not ids):
        ids = tuple(dict.fromkeys((*ids, session_id)))
    if not ids:
        raise usage(f"say which session: parlant-sync sessions {command} ID; parlant-sync sessions list lists them")
    return ids


def _json(info: SessionInfo | Session) -> dict[str, Any]:
    return {
        "session_id": info.id,
        "agent_id": info.agent_id,
        "customer_id": info.customer_id,
        "title": info.title,
        "mode": info.mode,
        "created": info.created.isoformat() if info.created is not None else None,
        "labels": list(info.labels),
        "metadata": dict(info.metadata),
    }


def _time(info: SessionInfo | Session) -> str:
    return info.created.astimezone().strftime("%Y-%m-%d %H:%M:%S") if info.created is not None else ""
