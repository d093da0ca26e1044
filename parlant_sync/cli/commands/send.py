"""``parlant-sync send``."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import click

from parlant_sync import (
    ApiError,
    Client,
    ProtocolError,
    RateLimitedError,
    Reply,
    ServerError,
    Session,
    TransportError,
    TurnTimeout,
)
from parlant_sync.cli import output
from parlant_sync.cli.app import App
from parlant_sync.cli.errors import AGENT, ANSWERED, TIMED_OUT, UNREACHED, CommandError, timed_out, usage
from parlant_sync.cli.formats import reply_json
from parlant_sync.cli.input import has_unread_stdin, read_message
from parlant_sync.cli.options import Command, Seconds, option, pass_app
from parlant_sync.cli.output import visible
from parlant_sync.cli.target import mapping, opened, session_options, target
from parlant_sync.cli.terminal import waiting_for

TIMEOUT = option("--timeout", type=Seconds(), default=300, metavar="TIME", help="Give up after this time.  [300]")
EMPTY_FAILS = option("--empty-fails", is_flag=True, help="Exit with 5 if the turn ends without a message.")
STREAM = option("--stream", is_flag=True, help="Print the answer as it is written.")
SHOW_PREAMBLE = option("--show-preamble", is_flag=True, help='Also print "Let me check...", to stderr.')
METADATA = option(
    "--metadata", multiple=True, metavar="NAME=VALUE", help="Metadata of the message; or a JSON object. Repeatable."
)
# How often a server that is waited for is asked again, in seconds.
_EVERY = 1.0


@click.command(cls=Command)
@click.argument("message", required=False)
@session_options
@TIMEOUT
@STREAM
@SHOW_PREAMBLE
@option("--stdin", "add_stdin", is_flag=True, help="Add the content of stdin below MESSAGE.")
@option("--key", help="Post once under this key, however often this is run.")
@METADATA
@EMPTY_FAILS
@option("--wait-server", type=Seconds(), default=0, metavar="TIME", help="Wait this long for a server that is down.")
@pass_app
def send(
    app: App,
    /,
    message: str | None,
    timeout: float | None,
    stream: bool,
    show_preamble: bool,
    add_stdin: bool,
    key: str | None,
    metadata: tuple[str, ...],
    empty_fails: bool,
    wait_server: float | None,
    **options: Any,
) -> int:
    """Ask an agent and print its answer.

    Without MESSAGE, or if it is -, the message is read from stdin.

    \b
      parlant-sync send --agent-id research "What is peer review?"
      git diff | parlant-sync send --agent-id reviewer --stdin "Review this:"
      parlant-sync send --conversation nightly "Anything new?"
    """
    wanted = target(options)
    extra: dict[str, Any] = {"metadata": mapping("--metadata", metadata)}
    if key is not None:
        if wanted.session_id is None and wanted.conversation is None:
            raise usage("--key needs --session-id or --conversation: each new session would get the message again")
        extra |= {"key": key, "once": True}
    output.check()
    text = read_message(message, add_stdin=add_stdin)
    with app.client(patience=timeout) as client:
        wait_for_server(client, wait_server)
        begun = time.monotonic()
        with opened(app, client, wanted) as session:
            left = _left(timeout, options["wait_lock"], begun)
            app.info(f"session {session.id} with agent {session.agent_id}")
            try:
                if stream and not app.json:
                    reply = _print_stream(client, session, text, left, show_preamble, extra)
                else:
                    reply = _print_whole(app, client, session, text, left, show_preamble, extra)
            except TurnTimeout as error:
                raise out_of_time(app, session, error, timeout, options["customer_id"]) from error
    if message not in (None, "-") and not add_stdin and has_unread_stdin():
        output.note("stdin was not read; --stdin adds it below the message")
    return finish(app, reply, empty_fails)


def finish(app: App, reply: Reply, empty_fails: bool) -> int:
    """Notes about the outcome, and the exit code."""
    if reply.outcome == "empty":
        output.note("the agent ended its turn without a message")
        return AGENT if empty_fails else ANSWERED
    if reply.outcome == "cancelled":
        output.note("the turn was stopped before it was over")
    elif reply.outcome == "human":
        app.info("a human agent answered")
    return ANSWERED


def print_reply(app: App, session: Session, reply: Reply, show_preamble: bool) -> None:
    """A reply that is whole."""
    if show_preamble:
        for event in reply.preambles:
            _preamble(event.message or "")
    if app.json:
        output.answer_json(reply_json(session.id, reply))
    elif reply.text:
        output.answer(reply.text)


def wait_for_server(client: Client, limit: float | None) -> None:
    """Until the server answers, for ``limit`` seconds at most. Then the command itself meets the failure."""
    deadline = None if limit is None else time.monotonic() + limit
    pause = threading.Event()
    with waiting_for(f"the server at {client.base_url}", client):
        while deadline is None or time.monotonic() < deadline:
            try:
                client.agents()  # small, and a server that refuses it is up
                return
            except (TransportError, ServerError, RateLimitedError, ProtocolError):
                pause.wait(_EVERY if deadline is None else max(0.0, min(_EVERY, deadline - time.monotonic())))
            except ApiError:
                return


def _left(timeout: float | None, wait_lock: float | None, begun: float) -> float | None:
    """What is left of --timeout for the turn after its session was opened. Waiting for the lock does not count."""
    if not timeout or wait_lock is None:
        return timeout
    left = begun + timeout + wait_lock - time.monotonic()
    if left <= 0:
        raise CommandError(
            TIMED_OUT, f"nothing was posted: it took {timeout:g} s to open the session; give a longer --timeout"
        )
    return min(timeout, left)


def out_of_time(
    app: App,
    session: Session,
    error: TurnTimeout,
    timeout: float | None,
    customer: str | None,
    *,
    triggered: bool = False,
) -> CommandError:
    """``customer``: the one that was asked for, if the session may be new. ``triggered``: there is no message."""
    health = session.health
    if error.event is not None:
        since = error.event.offset + 1
    elif triggered:
        since = error.partial.events[0].offset if error.partial.events else health.next_offset
    else:
        return CommandError(TIMED_OUT, timed_out(error))
    rest = app.again("tail", "--session-id", session.id, "--since", str(since))
    if health.consecutive_failures:
        done = "the agent was asked to speak" if triggered else "the message was posted"
        said = f"{done}, but then the server could not be read ({health.last_error})"
        return CommandError(UNREACHED, f"{said}; look for the answer later: {rest}")
    begun = "the agent was still working"
    if not error.partial.events:
        manual = session.mode == "manual"
        begun = "the session is in manual mode and no human has answered" if manual else "the agent had not begun"
        # Servers create the session of an unknown customer, and never answer in it (WIRE.md).
        if not manual and customer is not None:
            begun += f"; is customer {customer!r} known to the server?"
    said = f"no complete answer within {timeout:g} s ({begun})"
    return CommandError(TIMED_OUT, f"{said}; give a longer --timeout, or watch it: {rest}")


def _print_whole(
    app: App,
    client: Client,
    session: Session,
    text: str,
    timeout: float | None,
    show_preamble: bool,
    extra: dict[str, Any],
) -> Reply:
    waiting = waiting_for(session.agent_id, client)
    with waiting, session.stream(text, timeout=timeout, **extra) as turn:
        if show_preamble:
            for event in turn:
                if event.is_preamble:
                    with waiting.above():
                        _preamble(event.message or "")
        reply = turn.reply()
    print_reply(app, session, reply, show_preamble=False)
    return reply


def _print_stream(
    client: Client, session: Session, text: str, timeout: float | None, show_preamble: bool, extra: dict[str, Any]
) -> Reply:
    from parlant_sync.cli.turn_view import Live

    live = Live(client, session, session.agent_id, _preamble if show_preamble else None)
    with live, session.stream(text, timeout=timeout, **extra) as turn:
        restarts, line_ends = 0, True
        try:
            for number, piece in enumerate(turn.text):
                if number == 0:
                    live.before_text()
                if restarts != turn.restarts:
                    restarts = turn.restarts
                    output.write("" if line_ends else "\n")
                    output.note("the agent was interrupted; a new answer begins")
                line_ends = piece.endswith("\n")
                output.write(visible(piece))
            return turn.reply()
        finally:  # what is said about a failure begins a line, too
            if not line_ends:
                output.write("\n")


def _preamble(text: str) -> None:
    output.note_raw(output.dim(visible(text), output.has_colours(sys.stderr)) + "\n")
