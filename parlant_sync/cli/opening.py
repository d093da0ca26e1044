"""The options that say which session a command is about, and the session they mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from parlant_sync import Client, Session
from parlant_sync.cli.base import App, Seconds, option, typed
from parlant_sync.cli.choosing import attach, create_session, missing
from parlant_sync.cli.failures import usage

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
