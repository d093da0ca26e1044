"""``parlant-sync sessions``."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Literal

import click

from parlant_sync import NotFoundError, SessionInfo
from parlant_sync.cli import output, transcript
from parlant_sync.cli.app import App
from parlant_sync.cli.errors import REFUSED, CommandError, is_gone, usage
from parlant_sync.cli.lookup import attach, create_session, known_agent
from parlant_sync.cli.options import Group, Option, argument, option, pass_app, typed
from parlant_sync.cli.output import one_line
from parlant_sync.cli.target import mapping
from parlant_sync.cli.terminal import pad, waiting_for, width

_LIMIT = 50
_LABELS = option("--label", "labels", multiple=True, metavar="LABEL", help="A label; can be repeated.")
_METADATA = option("--metadata", multiple=True, metavar="NAME=VALUE", help="Metadata; or a JSON object. Repeatable.")
_LONGEST = 30  # columns of a column of the list


def _created(info: SessionInfo) -> datetime:
    return info.created or datetime.min.replace(tzinfo=timezone.utc)


@click.group(cls=Group)
def sessions() -> None:
    """List, show, create, change and delete sessions."""


@sessions.command("list")
@option("--agent-id", metavar="ID", help="Only those with this agent (id or name).")
@option("--customer-id", metavar="ID", help="Only those of this customer.")
@option("--label", "labels", multiple=True, metavar="LABEL", help="Only those with this label; can be repeated.")
@option("--search", metavar="TEXT", help="Only those with TEXT in id, agent, customer, title, labels or metadata.")
@option("--limit", type=click.IntRange(min=0), metavar="N", help=f"The newest N; 0: all.  [{_LIMIT}; with json all]")
@pass_app
def list_(app: App, /, search: str | None, limit: int | None, **wanted: Any) -> None:
    """List the sessions of the server, newest first.

    One per line: id, agent, customer, time of creation, title.
    """
    with app.client() as client, waiting_for(client.base_url, client):
        wanted["agent_id"] = known_agent(app, client, wanted["agent_id"])
        found = [info for info in client.list_sessions(**wanted) if search is None or _matches(info, search)]
    if wanted["agent_id"] is not None and not typed("agent_id"):
        output.note(f"only sessions of agent {wanted['agent_id']!r}, which the environment or the profile names")
    found.sort(key=_created, reverse=True)
    shown = found[: (0 if app.json else _LIMIT) if limit is None else limit] or found
    if app.json:
        for info in shown:
            output.answer_json(transcript.info_json(info))
        return
    fields = ("id", "agent_id", "customer_id")
    rows = [
        [*(one_line(getattr(info, name)) for name in fields), transcript.when(info), one_line(info.title or "")]
        for info in shown
    ]
    widths = [min(_LONGEST, max(map(width, column))) for column in zip(*rows, strict=True)]
    for row in rows:
        output.answer("  ".join(map(pad, row, widths)).rstrip())
    if len(shown) < len(found):
        output.note(f"{len(found) - len(shown)} more; --limit N shows N of them, --limit 0 all")


def _matches(info: SessionInfo, text: str) -> bool:
    every = [info.id, info.agent_id, info.customer_id, info.title or "", *info.labels, output.to_json(info.metadata)]
    return any(text.casefold() in each.casefold() for each in every)


@sessions.command(formats=transcript.FORMATS)
@argument("session", values="session_id", required=False, metavar="[ID]")
@option("--session-id", metavar="ID", help="The same as ID.")
@option("--last", is_flag=True, help="The newest session, with --agent-id of that agent.")
@option("--agent-id", metavar="ID", help="With --last: the agent.")
@option("--search", metavar="TEXT", help="Only messages with TEXT in them.")
@pass_app
def show(
    app: App, /, session: str | None, session_id: str | None, last: bool, agent_id: str | None, search: str | None
) -> None:
    """Show a session as a transcript.

    With -o json one object, with all its events; -o markdown and -o html are
    pages to keep.

    \b
      parlant-sync sessions show --last
      parlant-sync sessions show ID -o html > transcript.html
    """
    given = {each for each in (session, session_id if typed("session_id") or not (session or last) else None) if each}
    if len(given) + last != 1:
        raise usage("say which session: ID, --session-id or --last, one of them")
    with app.client() as client:
        if last:
            agent_id = known_agent(app, client, agent_id)
            with waiting_for(client.base_url, client):
                listed = sorted(client.list_sessions(agent_id=agent_id), key=_created)
            if not listed:
                whose = f" with agent {agent_id!r}" if agent_id else ""
                raise CommandError(REFUSED, f"there are no sessions{whose} on {client.base_url}")
            given = {listed[-1].id}
        found = attach(app, client, given.pop())
        app.session_id = found.id
        with waiting_for(client.base_url, client):
            events = found.history()
    if search is not None:
        events = [event for event in events if search.casefold() in (event.message or "").casefold()]
    transcript.write(found, events, app.output)


@sessions.command()
@option("--agent-id", metavar="ID", help="The agent's id or name; not needed if there is only one.")
@option("--customer-id", metavar="ID", help="The customer.  [a guest]")
@option("--title", help="Its title.")
@_LABELS
@_METADATA
@pass_app
def create(app: App, /, agent_id: str | None, metadata: tuple[str, ...], **options: Any) -> None:
    """Create a session and print its id."""
    options["session_metadata"] = mapping("--metadata", metadata)
    output.check()
    with app.client() as client:
        session = create_session(app, client, agent_id, options)
    if app.json:
        output.answer_json(transcript.info_json(session))
    else:
        output.answer(session.id)


@sessions.command()
@argument("session", values="session_id", metavar="ID")
@option("--title", help="Its new title.")
@option("--mode", type=click.Choice(["auto", "manual"]), help="manual: only humans answer.")
@option("--customer-id", metavar="ID", help="Its customer from now on.")
@option("--label", "labels", multiple=True, metavar="LABEL", help="Its labels from now on; can be repeated.")
@option("--metadata", multiple=True, metavar="NAME=VALUE", help="Set NAME; null removes it. Can be repeated.")
@pass_app
def update(
    app: App,
    /,
    session: str,
    title: str | None,
    mode: Literal["auto", "manual"] | None,
    customer_id: str | None,
    labels: tuple[str, ...],
    metadata: tuple[str, ...],
) -> None:
    """Change a session."""
    changes = mapping("--metadata", metadata)
    if not (title is not None or mode or customer_id or labels or changes):
        raise usage("nothing to change: give --title, --mode, --customer-id, --label or --metadata")
    with app.client() as client:
        found = attach(app, client, session)
        with waiting_for(client.base_url, client):
            found.update(title=title, mode=mode, customer_id=customer_id, labels=labels or None, metadata=changes)
    if app.json:
        output.answer_json(transcript.info_json(found))
    else:
        app.info(f"changed session {session}")


@sessions.command()
@argument("ids", values="session_id", nargs=-1, metavar="ID...")
@click.option("--session-id", cls=Option, from_environment=False, metavar="ID", help="The same as ID.")
@pass_app
def delete(app: App, /, ids: tuple[str, ...], session_id: str | None) -> None:
    """Delete sessions on the server, with all their messages.

    An id that is not there does not stop the others. What the environment says
    (PARLANT_SESSION_ID) is not deleted: name each session.
    """
    wanted = tuple(dict.fromkeys((*ids, *([session_id] if session_id else []))))
    if not wanted:
        raise usage("say which session: parlant-sync sessions delete ID; parlant-sync sessions list lists them")
    missing: list[str] = []
    with app.client() as client:
        for each in wanted:
            try:
                with waiting_for(client.base_url, client):
                    client.delete_session(each)
            except NotFoundError as error:
                if not is_gone(error, each):
                    raise
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
