"""Which session a command is about: the options that say so, and the session they mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from parlant_sync import Client, Session
from parlant_sync.cli.app import App
from parlant_sync.cli.errors import usage
from parlant_sync.cli.lookup import attach, create_session, missing
from parlant_sync.cli.options import Seconds, option, typed

_F = TypeVar("_F", bound=Callable[..., Any])

STATE_DIR = option("--state-dir", metavar="DIR", help="Folder for state.  [~/.local/state/parlant-sync]")
WAIT_LOCK = option(
    "--wait-lock", type=Seconds(), default=0, metavar="TIME", help="Wait this long for another run to end.  [0]"
)
_EXISTING = [
    option("--session-id", metavar="ID", help="The session."),
    option("--conversation", metavar="NAME", help="The session that send or post keeps under NAME."),
    option("--agent-id", metavar="ID", help="The agent's id or name, if NAME is kept with several."),
]
_EXISTING_OR_NEW = [
    option("--session-id", metavar="ID", help="Continue this session."),
    option("--conversation", metavar="NAME", help="Continue the session kept under NAME; the first time, start it."),
    option("--agent-id", metavar="ID", help="The agent's id or name; not needed if there is only one."),
    option("--renew", is_flag=True, help="If the server has forgotten NAME's session, start a new one."),
    option("--fresh", is_flag=True, help="Start a new session under NAME in any case."),
    option("--customer-id", metavar="ID", help="The customer who speaks.  [a guest]"),
    option("--title", help="Title of a new session."),
    option("--label", "labels", multiple=True, metavar="LABEL", help="Label of a new session; can be repeated."),
]


def session_options(command: _F) -> _F:
    """For commands that talk: an existing session, a kept one, or a new one. They arrive as ``**options``."""
    return _add(command, [*_EXISTING_OR_NEW, STATE_DIR, WAIT_LOCK])


def existing_session_options(command: _F) -> _F:
    """For commands that need a session that is there, and only read it: they wait for no lock."""
    return _add(command, [*_EXISTING, STATE_DIR])


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
