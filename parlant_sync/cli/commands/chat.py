"""``parlant-sync chat``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from parlant_sync import (
    AgentError,
    Client,
    DeliveryUncertain,
    Event,
    NotFoundError,
    ParlantSyncError,
    RateLimitedError,
    Reply,
    ServerError,
    Session,
    TransportError,
    TurnTimeout,
)
from parlant_sync.cli import errors, output, transcript
from parlant_sync.cli.app import App
from parlant_sync.cli.formats import reply_json, speaker
from parlant_sync.cli.input import checked, editing, read_line, whole
from parlant_sync.cli.options import Command, Seconds, option, pass_app, typed
from parlant_sync.cli.signals import Terminated
from parlant_sync.cli.target import Target, opened, session_options, target
from parlant_sync.cli.terminal import waiting_for
from parlant_sync.cli.turn_view import Talk

# What a conversation survives; the rest (gone, not allowed, ...) would fail the next time as well.
_PASSING = (TurnTimeout, AgentError, DeliveryUncertain, TransportError, ServerError, RateLimitedError)
_SHOWN_ON_RETURN = 6
_HELP = """\
  /exit        leave the conversation (or Ctrl-D)
  /save FILE   write a transcript: .md, .html, .json or .txt
  /help        show this
  //TEXT       send a message that begins with a slash
  Ctrl-C       leave a turn that takes too long
"""


@click.command(cls=Command)
@session_options
@option("--timeout", type=Seconds(), default=300, metavar="TIME", help="Give up a turn after this time.  [300]")
@pass_app
def chat(app: App, /, timeout: float | None, **options: Any) -> None:
    """Hold a conversation at the terminal.

    Each line is a message; lines that are pasted together are one message.
    Ctrl-C leaves a turn that takes too long (a late answer is still shown),
    Ctrl-D or /exit leaves the conversation. An empty line shows new messages.
    /help lists the other commands.
    """
    wanted = target(options)
    with app.client(turn_timeout=timeout) as client, opened(app, client, wanted) as session:
        _Chat(app, client, session, _name(client, session)).run(app.again("chat", *_way_back(wanted, session)))


def _way_back(wanted: Target, session: Session) -> list[str]:
    if not wanted.conversation:
        return ["--session-id", session.id]
    words = ["--conversation", wanted.conversation]
    for name in ("agent_id", "state_dir"):  # a conversation is kept by them
        if typed(name):
            words += [f"--{name.replace('_', '-')}", wanted.options[name]]
    return words


def _name(client: Client, session: Session) -> str:
    try:
        with waiting_for(client.base_url, client):
            return client.agent(session.agent_id).name
    except ParlantSyncError:
        return session.agent_id  # only a nicety


class _Chat:
    def __init__(self, app: App, client: Client, session: Session, name: str) -> None:
        self._app = app
        self._client = client
        self._session = session
        self._name = name
        self._talk = Talk(client, session, name)
        self._terminal = output.is_terminal(sys.stdin)
        self._prompt: Callable[[str], str] = input
        self._seen = 0  # the offset up to which everything was shown

    def run(self, back: str) -> None:
        if self._terminal:
            output.note(f"{self._name}, session {self._session.id}. /help shows what you can do.")
            self._app.signals.tolerant = True
        try:
            with self._editing() as self._prompt:
                self._show_past()
                while self._go_on():
                    pass
        except NotFoundError:
            back = ""  # there is nothing to come back to
            raise
        finally:
            self._app.signals.tolerant = False
            if self._terminal and back:
                output.note(f"Come back with: {back}")

    def _editing(self) -> contextlib.AbstractContextManager[Callable[[str], str]]:
        both = self._terminal and output.is_terminal(sys.stdout)
        return editing() if both else contextlib.nullcontext(input)

    def _go_on(self) -> bool:
        try:
            return self._step()
        except KeyboardInterrupt:  # a second one, while the first was being reported
            if not self._terminal:
                raise
            return True

    def _step(self) -> bool:
        """Read one line and get its turn. Return False at the end of the conversation."""
        try:
            self._show_news()
            with self._app.typing():
                line = self._read_line()
            if line is None:
                return False
            if self._terminal and line.startswith("/") and not line.startswith("//"):
                return self._command(line)
            if line.strip():
                self._say(checked(line.replace("//", "/", 1) if line.startswith("//") else line, "the line"))
        except KeyboardInterrupt:
            if not self._terminal:
                raise
            output.note("")
            output.note("(Ctrl-D leaves the conversation)")
        except errors.CommandError as error:
            if not self._terminal:
                raise
            output.note(f"({error})")
        return True

    def _command(self, line: str) -> bool:
        """Carry out a command such as ``/save``. Return False if it ends the conversation."""
        name, _, argument = line[1:].strip().partition(" ")
        if name in ("exit", "quit"):
            return False
        if name == "save":
            self._save(Path(argument.strip() or f"{self._session.id}.md").expanduser())
        else:
            if name != "help":
                output.note(f"no command /{name}")
            output.note_raw(_HELP)
        return True

    def _save(self, path: Path) -> None:
        form = {".json": "json", ".html": "html", ".txt": "text"}.get(path.suffix, "markdown")
        try:
            with path.open("x", encoding="utf-8") as file:  # an existing file is never overwritten
                transcript.write(self._session, self._session.history(), form, file.write)
        except OSError as error:
            output.note(f"{path}: {error.strerror}; give another name: /save FILE")
        else:
            output.note(f"saved {path}")

    def _read_line(self) -> str | None:
        try:
            if self._terminal and output.is_terminal(sys.stdout):
                return self._prompt("> ")
            if not self._terminal:
                return read_line(sys.stdin.buffer) if sys.stdin is not None else None
            output.note_raw("> ")
            line = sys.stdin.readline()
        except EOFError:
            output.note("")
            return None
        except Terminated:
            output.note("")  # what is said about it begins a line
            raise
        except UnicodeDecodeError:
            raise errors.usage("that was not valid text in this terminal's encoding") from None
        return whole(line.rstrip("\r\n")) if line else None

    def _say(self, line: str) -> None:
        if not self._terminal and not self._app.json:
            self._talk.say("You", line)
        try:
            reply = self._json_turn(line) if self._app.json else self._talk.turn(line)
        except KeyboardInterrupt:
            if not self._terminal:
                raise
            self._talk.aside("left this turn; a late answer will still be shown")
            self._see(self._talk.request)
        except _PASSING as error:
            if not self._terminal:
                raise
            output.note(errors.line(error, self._app.again, self._app.token_source()))
            self._see(self._talk.request)
        else:
            self._see(*reply.events, *reply.messages, reply.request)

    def _json_turn(self, line: str) -> Reply:
        reply = self._session.send(line)
        output.answer_json(reply_json(self._session.id, reply))
        return reply

    def _see(self, *events: Event | None) -> None:
        self._seen = max([self._seen, *(event.offset + 1 for event in events if event is not None)])

    # -- messages of others

    def _show_past(self) -> None:
        with waiting_for("what was said before", self._client):
            events = self._session.history()
        self._see(*events)
        said = [event for event in events if event.kind == "message" and not event.is_preamble]
        if self._app.json:
            return
        if len(said) > _SHOWN_ON_RETURN:
            self._talk.aside(f"{len(said) - _SHOWN_ON_RETURN} messages before these")
        for event in said[-_SHOWN_ON_RETURN:]:
            self._show(event)

    def _show_news(self) -> None:
        """Show messages that came outside of our turns: late, from a human, or not asked for."""
        try:
            with waiting_for("what came meanwhile", self._client):
                events = self._session.history(self._seen, kinds="message")
        except _PASSING:
            return  # they are shown the next time
        for event in events:
            if event.is_partial:
                return
            self._see(event)
            if not event.is_preamble and not self._app.json:
                self._show(event)

    def _show(self, event: Event) -> None:
        who = speaker(event, self._name)
        self._talk.say("You" if who == "customer" else who, event.message or "")
