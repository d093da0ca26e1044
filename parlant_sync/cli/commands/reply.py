"""``parlant-sync reply``."""

from __future__ import annotations

from typing import Any

import click

from parlant_sync import Event, Session, TurnTimeout
from parlant_sync.cli import output
from parlant_sync.cli.app import App
from parlant_sync.cli.commands.send import EMPTY_FAILS, SHOW_PREAMBLE, TIMEOUT, finish, out_of_time, print_reply
from parlant_sync.cli.errors import REFUSED, CommandError
from parlant_sync.cli.options import Command, option, pass_app
from parlant_sync.cli.target import existing, existing_session_options, found
from parlant_sync.cli.terminal import waiting_for


@click.command(cls=Command)
@existing_session_options
@option("--key", help="The answer to the message with this key.  [the last message]")
@TIMEOUT
@SHOW_PREAMBLE
@EMPTY_FAILS
@pass_app
def reply(
    app: App, /, key: str | None, timeout: float | None, show_preamble: bool, empty_fails: bool, **options: Any
) -> int:
    """Print the answer to a message that was posted before.

    Waits for the answer if it is not there yet.

    \b
      parlant-sync post --conversation nightly --key monday "Anything new?"
      parlant-sync reply --conversation nightly --key monday
    """
    wanted = existing(options)
    output.check()
    with app.client(patience=timeout) as client, found(app, client, wanted) as session:
        with waiting_for(session.agent_id, client):
            event = _message(app, session, key)
            try:
                answer = session.reply_to(event, timeout=timeout)
            except TurnTimeout as error:
                raise out_of_time(app, session, error, timeout, None) from error
        print_reply(app, session, answer, show_preamble)
    return finish(app, answer, empty_fails)


def _message(app: App, session: Session, key: str | None) -> Event:
    if key is not None:
        event = session.find(key)
        said = f"no message with key {key!r} in session {session.id}"
    else:
        messages = session.history(kinds="message", sources="customer")
        event = messages[-1] if messages else None
        said = f"no customer message in session {session.id}"
    if event is None:
        raise CommandError(REFUSED, f"{said}; see {app.again('sessions', 'show', session.id)}")
    return event
