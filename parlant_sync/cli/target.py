"""Which session, and which agent, a command is about: the options that say so, and the session they mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from parlant_sync import Agent, Client, NotFoundError, ParlantSyncError, PermissionDeniedError, Session
from parlant_sync.cli.errors import REFUSED, CommandError, exit_code, is_gone, usage
from parlant_sync.cli.options import App, Seconds, option, typed
from parlant_sync.cli.terminal import waiting_for

_F = TypeVar("_F", bound=Callable[..., Any])

STATE_DIR = option("--state-dir", metavar="DIR", help="Folder for state.  [~/.local/state/parlant-sync]")
WAIT_LOCK = option(
    "--wait-lock", type=Seconds(), default=0, metavar="TIME", help="Wait this long for another run to end.  [0]"
)
_EXISTING = [
    option("--session-id", metavar="ID", help="Continue this session."),
    option("--conversation", metavar="NAME", help="Continue the session kept under NAME; the first time, start it."),
    option("--agent-id", metavar="ID", help="The agent's id or name; not needed if there is only one."),
]
_NEW = [
    option("--renew", is_flag=True, help="If the server has forgotten NAME's session, start a new one."),
    option("--fresh", is_flag=True, help="Start a new session under NAME in any case."),
    option("--customer-id", metavar="ID", help="The customer who speaks.  [a guest]"),
    option("--title", help="Title of a new session."),
    option("--label", "labels", multiple=True, metavar="LABEL", help="Label of a new session; can be repeated."),
]


def session_options(command: _F) -> _F:
    """For commands that talk: an existing session, a kept one, or a new one. They arrive as ``**options``."""
    return _add(command, [*_EXISTING, *_NEW, STATE_DIR, WAIT_LOCK])


def existing_session_options(command: _F) -> _F:
    """For commands that need a session that is there."""
    return _add(command, [*_EXISTING, STATE_DIR, WAIT_LOCK])


def _add(command: _F, options: list[Callable[[_F], _F]]) -> _F:
    for add in reversed(options):
        command = add(command)
    return command


def mapping(option_name: str, given: Sequence[str]) -> dict[str, Any] | None:
    """``NAME=VALUE`` (JSON, or else text), or a JSON object; None without any. Raises CommandError."""
    found: dict[str, Any] = {}
    for text in given:
        if text.lstrip().startswith("{"):
            try:
                found.update(json.loads(text))
            except ValueError as error:
                raise usage(f"{option_name} {text!r} is not a JSON object: {error}") from None
            continue
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise usage(f"{option_name} {text!r}: give NAME=VALUE, or a JSON object")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return found or None


class Target:
    """What was asked for, without contradictions. Made before anything is sent."""

    def __init__(self, session_id: str | None, conversation: str | None, options: dict[str, Any]) -> None:
        self.session_id = session_id
        self.conversation = conversation
        self.options = options


def target(options: dict[str, Any]) -> Target:
    """Raises CommandError for contradictions. A typed option overrides one from the environment."""
    session_id, conversation = options["session_id"], options["conversation"]
    if session_id is not None and conversation is not None:
        if typed("session_id") == typed("conversation"):
            raise usage("--session-id and --conversation both name a session; give one of them")
        session_id, conversation = (session_id, None) if typed("session_id") else (None, conversation)
    new = [name for name in ("agent_id", "customer_id", "title", "labels") if options.get(name) and typed(name)]
    if session_id is not None and new:
        if typed("session_id"):
            name = "label" if new[0] == "labels" else new[0].replace("_", "-")
            raise usage(f"--{name} is for a new session; leave it out with --session-id")
        session_id = None
    for name in ("renew", "fresh"):
        if options.get(name) and conversation is None and typed(name):
            raise usage(f"--{name} goes with --conversation")
    return Target(session_id, conversation, options)


def existing(options: dict[str, Any]) -> Target:
    """The same for commands that start no session. Raises CommandError."""
    wanted = target(options)
    if wanted.session_id is None and wanted.conversation is None:
        raise usage("say which session with --session-id or --conversation; parlant-sync sessions list lists them")
    return wanted


@contextmanager
def opened(app: App, client: Client, wanted: Target) -> Iterator[Session]:
    """The session; a conversation's is locked until the end. Raises CommandError if it is gone, also later on."""
    with _opened(app, client, wanted) as session, missing(app, client, session.id, wanted.conversation):
        app.session_id = session.id
        yield session


@contextmanager
def _opened(app: App, client: Client, wanted: Target) -> Iterator[Session]:
    if wanted.session_id is not None:
        yield attach(app, client, wanted.session_id)
    elif wanted.conversation is None:
        yield create_session(app, client, wanted.options["agent_id"], wanted.options)
    else:
        # Only here: a run that keeps nothing needs no files.
        from parlant_sync.cli.conversations import Conversation

        with Conversation(app, client, kept(wanted)) as conversation:
            yield conversation.session()


@contextmanager
def found(app: App, client: Client, wanted: Target) -> Iterator[Session]:
    """A session that is there, for commands that start none. A conversation is not locked: a run may be using it."""
    if wanted.session_id is not None:
        session = attach(app, client, wanted.session_id)
    else:
        from parlant_sync.cli.conversations import find_session_id

        client, session_id = find_session_id(app, client, kept(wanted))
        session = attach(app, client, session_id, wanted.conversation)
    with missing(app, client, session.id, wanted.conversation):
        yield session


def kept(wanted: Target) -> Any:
    """The conversation that is meant, as ``conversations`` takes it."""
    from parlant_sync.cli.conversations import Wanted

    options = wanted.options
    return Wanted(
        name=wanted.conversation or "",
        agent_id=options.get("agent_id"),
        options=options,
        state_dir=options["state_dir"],
        renew=options.get("renew", False),
        fresh=options.get("fresh", False),
        wait_lock=options.get("wait_lock", 0.0),
    )


# -- Which agent a new session is with.

_SHOWN = 8


def choose_agent(client: Client, agent_id: str | None) -> str:
    """``agent_id``, or the server's only agent. Raises CommandError that lists the agents if there are several."""
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
    with waiting_for(client.base_url):
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
    with missing(app, client, session_id, conversation), waiting_for(client.base_url):
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
