"""``parlant-sync trigger``."""

from __future__ import annotations

from typing import Any

import click

from parlant_sync import TurnTimeout
from parlant_sync.cli import output
from parlant_sync.cli.app import App
from parlant_sync.cli.commands.send import EMPTY_FAILS, SHOW_PREAMBLE, TIMEOUT, finish, out_of_time, print_reply
from parlant_sync.cli.options import Command, option, pass_app
from parlant_sync.cli.target import opened, session_options, target
from parlant_sync.cli.terminal import waiting_for


@click.command(cls=Command)
@session_options
@option("--guideline", "guidelines", multiple=True, metavar="TEXT", help="What to say; can be repeated.")
@TIMEOUT
@SHOW_PREAMBLE
@EMPTY_FAILS
@pass_app
def trigger(
    app: App,
    /,
    guidelines: tuple[str, ...],
    timeout: float | None,
    show_preamble: bool,
    empty_fails: bool,
    **options: Any,
) -> int:
    """Ask the agent to speak without a customer message.

    \b
      parlant-sync trigger --session-id ID --guideline "Ask if all is well now"
    """
    wanted = target(options)
    output.check()
    with app.client(patience=timeout) as client, opened(app, client, wanted) as session:
        with waiting_for(session.agent_id, client):
            try:
                answer = session.trigger(guidelines or None, timeout=timeout)
            except TurnTimeout as error:
                raise out_of_time(app, session, error, timeout, options["customer_id"], triggered=True) from error
        print_reply(app, session, answer, show_preamble)
    return finish(app, answer, empty_fails)
