"""``parlant-sync send``."""

from __future__ import annotations

import sys
from typing import Any

import click

from parlant_sync import Client, Reply, Session
from parlant_sync.cli import output
from parlant_sync.cli.base import App, Command, Seconds, option, pass_app
from parlant_sync.cli.choosing import attach, create_session
from parlant_sync.cli.failures import usage
from parlant_sync.cli.message import read_message
from parlant_sync.cli.render import reply_json
from parlant_sync.cli.visible import visible
from parlant_sync.cli.waiting import Waiting


@click.command(cls=Command)
@click.argument("message", required=False)
@option("--agent-id", metavar="ID", help="The agent to ask; may be left out where there is one.")
@option("--session-id", metavar="ID", help="Go on in this session, instead of a new one.")
@option("--customer-id", metavar="ID", help="The customer who asks.  [a guest]")
@option("--title", help="Title of a new session.")
@option("--timeout", type=Seconds(), default=300, metavar="SECONDS", help="Give up after so long.  [300]")
@option("--stream", is_flag=True, help="Print the answer as it is written.")
@option("--show-preamble", is_flag=True, help='Print "let me see..." too, to stderr.')
@pass_app
def send(app: App, /, message: str | None, timeout: float | None, **options: Any) -> None:
    """Ask an agent and print its answer.

    MESSAGE is taken from stdin where it is - or left out.

    \b
      parlant-sync send --agent-id research "What is peer review?"
      git diff | parlant-sync send --agent-id reviewer
    """
    if options["session_id"] is not None:
        for name in ("agent_id", "customer_id", "title"):
            # From the environment it is no contradiction, only not needed.
            if options[name] is not None and _typed(name):
                raise usage(f"--{name.replace('_', '-')} is for a new session; leave it out with --session-id")
    text = read_message(message)
    with app.client(turn_timeout=timeout) as client:
        session = _session(app, client, options)
        ask(app, session, text, stream=options["stream"], show_preamble=options["show_preamble"])


def _typed(name: str) -> bool:
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _session(app: App, client: Client, options: dict[str, Any]) -> Session:
    if options["session_id"] is not None:
        return attach(app, client, options["session_id"])
    return create_session(app, client, options["agent_id"], customer_id=options["customer_id"], title=options["title"])


def ask(app: App, session: Session, text: str, *, stream: bool, show_preamble: bool) -> Reply:
    """Send, and print the answer as the options say."""
    app.info(f"session {session.id} with agent {session.agent_id}")
    if stream and not app.json:
        reply = _print_stream(session, text, show_preamble)
    else:
        reply = _print_whole(app, session, text, show_preamble)
    if reply.outcome == "empty":
        output.note("the agent ended its turn without a message")
    elif reply.outcome == "human":
        app.info("a human agent answered")
    return reply


def _print_whole(app: App, session: Session, text: str, show_preamble: bool) -> Reply:
    with Waiting(lambda: f"waiting for {session.agent_id} ...") as waiting, session.stream(text) as turn:
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


def _print_stream(session: Session, text: str, show_preamble: bool) -> Reply:
    from parlant_sync.cli.live import Live

    with Live(session, session.agent_id, _preamble if show_preamble else None) as live, session.stream(text) as turn:
        restarts, line_ends = 0, True
        for number, piece in enumerate(turn.text):
            if number == 0:
                live.before_text()
            if restarts != turn.restarts:
                restarts = turn.restarts
                output.write("" if line_ends else "\n")
                output.note("the agent was interrupted; its answer begins anew")
            output.write(visible(piece))
            line_ends = piece.endswith("\n")
        reply = turn.reply()
    if not line_ends:
        output.write("\n")
    return reply


def _preamble(text: str) -> None:
    output.note_raw(output.dim(visible(text), output.has_colours(sys.stderr)) + "\n")
