"""Which agent a new session is with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from parlant_sync import Agent, Client, NotFoundError, PermissionDeniedError, Session
from parlant_sync.cli.base import App
from parlant_sync.cli.failures import REFUSED, CommandError, usage
from parlant_sync.cli.waiting import waiting_for

_SHOWN = 8


def choose_agent(client: Client, agent_id: str | None) -> str:
    """``agent_id``, or the server's only agent. Raises CommandError that lists the agents where there are more."""
    if agent_id is not None:
        if not agent_id.strip():
            raise usage("--agent-id is empty; parlant-sync agents lists the agents")
        return agent_id
    try:
        with waiting_for(client.base_url):
            agents = client.agents()
    except PermissionDeniedError:
        raise usage(f"{client.base_url} does not list its agents to this token; say which with --agent-id") from None
    if len(agents) == 1:
        return agents[0].id
    if not agents:
        raise CommandError(REFUSED, f"{client.base_url} has no agents; make one first")
    raise usage(f"{client.base_url} has {len(agents)} agents; say which with --agent-id: {_names(agents)}")


def _names(agents: Sequence[Agent]) -> str:
    names = [agent.id if agent.name == agent.id else f"{agent.id} ({agent.name})" for agent in agents[:_SHOWN]]
    return ", ".join(names) + (", ..." if len(agents) > _SHOWN else "")


def create_session(
    app: App, client: Client, agent_id: str | None, *, customer_id: str | None, title: str | None
) -> Session:
    """A new session with that agent. Raises CommandError where there is no such agent."""
    chosen = choose_agent(client, agent_id)
    try:
        with waiting_for(client.base_url):
            return client.create_session(chosen, customer_id=customer_id, title=title)
    except NotFoundError as error:
        what = f"no agent {chosen!r} on {client.base_url}; {app.again('agents')} lists them"
        raise CommandError(REFUSED, what if chosen in error.detail else no_parlant(app, client, error)) from error


def attach(app: App, client: Client, session_id: str, *, since: int | str | None = None) -> Session:
    """A session that exists. Raises CommandError where it does not."""
    with missing(app, client, session_id), waiting_for(client.base_url):
        return client.session(session_id, since=since)


@contextmanager
def missing(
    app: App,
    client: Client,
    session_id: str,
    conversation: str | None = None,
    renew: str = "start a new one with --renew",
) -> Iterator[None]:
    """Words for a session that is not there, or not any more, whenever in here that shows. Raises CommandError."""
    try:
        yield
    except NotFoundError as error:
        why = "(one that keeps sessions in memory forgets them when it restarts)"
        if session_id not in error.detail:
            said = no_parlant(app, client, error)
        elif conversation is None:
            said = f"no session {session_id!r} on {client.base_url} {why}; {app.again('sessions', 'list')} lists those "
            said += "there are"
        else:
            said = f"the session {session_id} of conversation {conversation!r} is gone on {client.base_url} {why}; "
            said += renew
        raise CommandError(REFUSED, said) from error


def no_parlant(app: App, client: Client, error: NotFoundError) -> str:
    """For a 404 that does not name what is missing, as a Parlant server's does: nothing is at this address."""
    said = f"{error.method} {error.path} at {client.base_url}: {error.status} {error.detail}"
    return f"{said}; there may be no Parlant server at this address: {app.again('doctor')}"
