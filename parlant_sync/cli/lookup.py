"""Agents and sessions on the server, found by what a command was given; what is not there is described."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from parlant_sync import Agent, Client, NotFoundError, ParlantSyncError, PermissionDeniedError, Session
from parlant_sync.cli.app import App
from parlant_sync.cli.errors import REFUSED, CommandError, exit_code, is_gone, usage
from parlant_sync.cli.terminal import waiting_for

_SHOWN = 8  # agents in a message


def choose_agent(client: Client, agent_id: str | None) -> str:
    """``agent_id``, or the server's only agent. Raises CommandError that lists the agents if there are several."""
    if agent_id is not None:
        if not agent_id.strip():
            raise usage("--agent-id is empty; parlant-sync agents lists the agents")
        return agent_id
    try:
        with waiting_for(client.base_url, client):
            agents = client.agents()
    except PermissionDeniedError:
        raise usage(f"{client.base_url} does not list its agents to this token; say which with --agent-id") from None
    if len(agents) == 1:
        return agents[0].id
    if not agents:
        raise CommandError(REFUSED, f"{client.base_url} has no agents; make one first")
    raise usage(f"{client.base_url} has {len(agents)} agents; say which with --agent-id: {_names(agents)}")


def known_agent(app: App, client: Client, given: str | None) -> str | None:
    """The id of the agent that ``given``, an id or a name, stands for; None for None.

    For commands that would show nothing for a mistyped one. Raises CommandError with a suggestion.
    """
    if given is None:
        return None
    try:
        with waiting_for(client.base_url, client):
            return client.agent(given).id
    except NotFoundError as error:
        return agent_of_that_name(app, client, given, error)
    except PermissionDeniedError:
        return given  # a production server does not show its agents


def agent_of_that_name(app: App, client: Client, name: str, error: NotFoundError) -> str:
    """The id of the one agent that has this name. ``error`` says that no agent has it as its id.

    Raises CommandError with a suggestion.
    """
    if not is_gone(error, name):
        raise no_parlant(app, client, error) from error
    agents = _listed(client)
    named = _called(agents, name)
    if len(named) == 1:
        return named[0].id
    if named:
        raise usage(f"{len(named)} agents on {client.base_url} are called {name!r}; give an id: {_names(named)}")
    known = {text: agent for agent in agents for text in (agent.id, agent.name)}
    from difflib import get_close_matches  # only for a mistake

    near = [known[text] for text in get_close_matches(name, known, 1)]
    hint = f"did you mean {_names(near)}?" if near else f"{app.again('agents')} lists them"
    raise CommandError(REFUSED, f"no agent {name!r} on {client.base_url}; {hint}") from error


def agent_called(client: Client, name: str) -> str | None:
    """The id of the one agent that has this name; None if there is no such agent, or it cannot be found out."""
    named = _called(_listed(client), name)
    return named[0].id if len(named) == 1 else None


def _listed(client: Client) -> list[Agent]:
    try:
        return client.agents()
    except ParlantSyncError:  # a production server does not list them
        return []


def _called(agents: Sequence[Agent], name: str) -> list[Agent]:
    return [agent for agent in agents if agent.name.casefold() == name.casefold()]


def _names(agents: Sequence[Agent]) -> str:
    names = [agent.id if agent.name == agent.id else f"{agent.id} ({agent.name})" for agent in agents[:_SHOWN]]
    return ", ".join(names) + (", ..." if len(agents) > _SHOWN else "")


def create_session(app: App, client: Client, agent_id: str | None, options: Mapping[str, Any]) -> Session:
    """A new session with that agent. ``options`` may have ``customer_id``, ``title``, ``labels`` and ``metadata``.

    Raises CommandError if there is no such agent.
    """
    names = ("customer_id", "title", "labels", "session_metadata")
    given: dict[str, Any] = {name.removeprefix("session_"): options.get(name) or None for name in names}
    chosen = choose_agent(client, agent_id)
    with waiting_for(client.base_url, client):
        try:
            return client.create_session(chosen, **given)
        except NotFoundError as error:
            customer = given["customer_id"]
            if customer is not None and is_gone(error, customer):
                raise CommandError(REFUSED, f"no customer {customer!r} on {client.base_url}; check the id") from error
            return client.create_session(agent_of_that_name(app, client, chosen, error), **given)


def attach(app: App, client: Client, session_id: str, conversation: str | None = None) -> Session:
    """A session that exists. Raises CommandError if it does not."""
    app.session_id = session_id
    with missing(app, client, session_id, conversation), waiting_for(client.base_url, client):
        return client.session(session_id)


@contextmanager
def missing(app: App, client: Client, session_id: str, conversation: str | None = None) -> Iterator[None]:
    """Describes a session that is not there, or not any more, whenever that shows in here. Raises CommandError."""
    try:
        yield
    except NotFoundError as error:
        why = "(a server that keeps sessions in memory forgets them when it restarts)"
        if not is_gone(error, session_id):
            raise no_parlant(app, client, error) from error
        if conversation is None:
            said = f"no session {session_id!r} on {client.base_url} {why}; {app.again('sessions', 'list')} lists them"
        else:
            said = (
                f"the session {session_id} of conversation {conversation!r} is gone on {client.base_url} {why}; "
                f"{app.again('send', '--conversation', conversation, '--renew')} starts a new one"
            )
        raise CommandError(REFUSED, said) from error


def no_parlant(app: App, client: Client, error: NotFoundError) -> CommandError:
    """For a 404 that names no agent and no session: there is no Parlant server at this address, or not now."""
    said = f"{error.method} {error.path} at {client.base_url}: {error.status} {error.detail}"
    return CommandError(
        exit_code(error), f"{said}; there may be no Parlant server at this address: {app.again('doctor')}"
    )
