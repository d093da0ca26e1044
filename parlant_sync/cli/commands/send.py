"""``parlant-sync send``."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from parlant_sync import Reply, Session, TurnTimeout
from parlant_sync.cli import output
from parlant_sync.cli.errors import TIMED_OUT, UNREACHED, CommandError
from parlant_sync.cli.formats import reply_json
from parlant_sync.cli.input import read_message
from parlant_sync.cli.options import App, Command, Seconds, option, pass_app
from parlant_sync.cli.output import visible
from parlant_sync.cli.target import opened, session_options, target
from parlant_sync.cli.terminal import Waiting


@click.command(cls=Command)
@click.argument("message", required=False)
@session_options
@option("--timeout", type=Seconds(), default=300, metavar="SECONDS", help="Give up after so long.  [300]")
@option("--stream", is_flag=True, help="Print the answer as it is written.")
@option("--show-preamble", is_flag=True, help='Print "let me see..." too, to stderr.')
@pass_app
def send(
    app: App,
    /,
    message: str | None,
    timeout: float | None,
    stream: bool,
    show_preamble: bool,
    **options: Any,
) -> None:
    """Ask an agent and print its answer.

    MESSAGE is taken from stdin where it is - or left out.

    \b
      parlant-sync send --agent-id research "What is peer review?"
      git diff | parlant-sync send --agent-id reviewer
      parlant-sync send --conversation nightly "Anything new?"
    """
    wanted = target(options)
    output.check()
    text = read_message(message)
    begun = time.monotonic()
    with app.client(patience=timeout) as client, opened(app, client, wanted) as session:
        left = _left(timeout, options["wait_lock"], begun)
        try:
            ask(app, session, text, timeout=left, stream=stream, show_preamble=show_preamble)
        except TurnTimeout as error:
            raise _out_of_time(app, session, error, timeout, options["customer_id"]) from error


def _left(timeout: float | None, wait_lock: float | None, begun: float) -> float | None:
    """What the turn has of --timeout after its session was opened; waiting for the lock has a time of its own."""
    if not timeout or wait_lock is None:
        return timeout
    left = begun + timeout + wait_lock - time.monotonic()
    if left <= 0:
        raise CommandError(
            TIMED_OUT, f"nothing was posted: it took {timeout:g} s to open the session; give it a longer --timeout"
        )
    return min(timeout, left)


def _out_of_time(
    app: App, session: Session, error: TurnTimeout, timeout: float | None, customer: str | None
) -> CommandError:
    if error.event is None:
        return CommandError(TIMED_OUT, str(error))
    rest = app.again("tail", "--session-id", session.id, "--since", str(error.event.offset + 1))
    health = session.health
    if health.consecutive_failures:
        said = f"the message was posted, but then the server could not be read ({health.last_error})"
        return CommandError(UNREACHED, f"{said}; when it is well again, look for the answer: {rest}")
    begun = "the agent was still at it"
    if not error.partial.events:
        begun = "the agent had not begun"
        if customer is not None:  # a server makes the session of an unknown one all the same (WIRE.md)
            begun += f", and never does where there is no customer {customer!r}"
    said = f"no complete answer within {timeout:g} s ({begun})"
    return CommandError(TIMED_OUT, f"{said}; give it a longer --timeout, or watch it: {rest}")


def ask(app: App, session: Session, text: str, *, timeout: float | None, stream: bool, show_preamble: bool) -> Reply:
    """Send, and print the answer as the options say."""
    app.info(f"session {session.id} with agent {session.agent_id}")
    if stream and not app.json:
        reply = _print_stream(session, text, timeout, show_preamble)
    else:
        reply = _print_whole(app, session, text, timeout, show_preamble)
    if reply.outcome == "empty":
        output.note("the agent ended its turn without a message")
    elif reply.outcome == "human":
        app.info("a human agent answered")
    return reply


def _print_whole(app: App, session: Session, text: str, timeout: float | None, show_preamble: bool) -> Reply:
    waiting = Waiting(lambda: f"waiting for {session.agent_id} ...")
    with waiting, session.stream(text, timeout=timeout) as turn:
        if show_preamble:
            for event in turn:
                if event.is_preamble:
                    with waiting.above():
                        _preamble(event.message or "")
        reply = turn.reply()
    if app.json:
        output.answer_json(reply_json(session.id, reply))
    elif reply.text:
        output.answer(reply.text)
    return reply


def _print_stream(session: Session, text: str, timeout: float | None, show_preamble: bool) -> Reply:
    from parlant_sync.cli.turn_view import Live

    live = Live(session, session.agent_id, _preamble if show_preamble else None)
    with live, session.stream(text, timeout=timeout) as turn:
        restarts, line_ends = 0, True
        try:
            for number, piece in enumerate(turn.text):
                if number == 0:
                    live.before_text()
                if restarts != turn.restarts:
                    restarts = turn.restarts
                    output.write("" if line_ends else "\n")
                    output.note("the agent was interrupted; its answer begins anew")
                line_ends = piece.endswith("\n")
                output.write(visible(piece))
            return turn.reply()
        finally:  # what is said about a failure begins a line, too
            if not line_ends:
                output.write("\n")


def _preamble(text: str) -> None:
    output.note_raw(output.dim(visible(text), output.has_colours(sys.stderr)) + "\n")
