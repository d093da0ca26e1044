"""Which session, and which agent, a command is about: the options that say so, and the session they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from parlant_sync import Agent, Client, NotFoundError, PermissionDeniedError, Session
from parlant_sync.cli.errors import REFUSED, CommandError, usage
from parlant_sync.cli.options import App, Seconds, option, typed
from parlant_sync.cli.terminal import waiting_for
from parlant_sync.events import Since

_F = TypeVar("_F", bound=Callable[..., Any])

STATE_DIR = option("--state-dir", metavar="DIR", help="Folder for state.  [~/.local/state/parlant-sync]")
WAIT_LOCK = option(
    "--wait-lock", type=Seconds(), default=0, metavar="SECONDS", help="Wait so long for another run to end.  [0]"
)
_NEW = [
    option("--agent-id", metavar="ID", help="The agent; may be left out where there is one."),
    option("--session-id", metavar="ID", help="Go on in this session, instead of a new one."),
    option("--conversation", metavar="NAME", help="Go on in the session kept under NAME; the first time, begin it."),
    option("--renew", is_flag=True, help="With --conversation: begin anew if its session is gone."),
    option("--customer-id", metavar="ID", help="The customer who speaks.  [a guest]"),
    option("--title", help="Title of a new session."),
]


def session_options(command: _F) -> _F:
    """Those of commands that talk: an existing session, a kept one, or a new one. They arrive as ``**options``."""
    for add in reversed([*_NEW, STATE_DIR, WAIT_LOCK]):
        command = add(command)
    return command


@dataclass(frozen=True)
class Target:
    """What was asked for, with contradictions sorted out. Made before anything is sent."""

    session_id: str | None
    conversation: str | None
    options: dict[str, Any]


def target(options: dict[str, Any]) -> Target:
    """Raises CommandError. What was typed goes before what the environment says; two typed ones contradict."""
    session_id, conversation = options["session_id"], options["conversation"]
    if session_id is not None and conversation is not None:
        if typed("session_id") == typed("conversation"):
            raise usage("--session-id and --conversation both name a session; give one of them")
        session_id, conversation = (session_id, None) if typed("session_id") else (None, conversation)
    new = [name for name in ("agent_id", "customer_id", "title") if name in options and typed(name)]
    if session_id is not None and new:
        if typed("session_id"):
            raise usage(f"--{new[0].replace('_', '-')} is for a new session; leave it out with --session-id")
        session_id = None
    if options.get("renew") and conversation is None and typed("renew"):
        raise usage("--renew goes with --conversation")
    return Target(session_id, conversation, options)


@contextmanager
def opened(app: App, client: Client, wanted: Target) -> Iterator[Session]:
    """The session; a conversation's is locked until the end. Raises CommandError where it is gone, also later on."""
    with _opened(app, client, wanted) as session, missing(app, client, session.id, wanted.conversation):
        yield session


@contextmanager
def _opened(app: App, client: Client, wanted: Target) -> Iterator[Session]:
    options = wanted.options
    if wanted.session_id is not None:
        yield attach(app, client, wanted.session_id)
    elif wanted.conversation is None:
        yield create_session(
            app, client, options["agent_id"], customer_id=options["customer_id"], title=options["title"]
        )
    else:
        # Only here: what keeps nothing needs no files.
        from parlant_sync.cli.conversations import Conversation

        with Conversation(app, client, kept(wanted)) as conversation:
            yield conversation.session()


def kept(wanted: Target) -> Any:
    """The conversation that is meant, as :mod:`conversations` takes it."""
    from parlant_sync.cli.conversations import Wanted

    options = wanted.options
    return Wanted(
        name=wanted.conversation or "",
        agent_id=options.get("agent_id"),
        customer_id=options.get("customer_id"),
        title=options.get("title"),
        state_dir=options["state_dir"],
        renew=options.get("renew", False),
        wait_lock=options.get("wait_lock", 0.0),
    )


# -- Which agent a new session is with.

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


def attach(app: App, client: Client, session_id: str, *, since: Since | None = None) -> Session:
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
