"""``parlant-sync post``."""

from __future__ import annotations

from typing import Any, Literal

import click

from parlant_sync import DeliveryUncertain
from parlant_sync.cli import output
from parlant_sync.cli.app import App
from parlant_sync.cli.commands.send import METADATA
from parlant_sync.cli.errors import UNCERTAIN, CommandError, uncertain, usage
from parlant_sync.cli.input import read_message
from parlant_sync.cli.options import Command, option, pass_app
from parlant_sync.cli.target import mapping, opened, session_options, target
from parlant_sync.cli.terminal import waiting_for

_Source = Literal["customer", "human_agent", "human_agent_on_behalf_of_ai_agent"]
_SPEAKERS: dict[str, _Source] = {
    "customer": "customer",
    "human": "human_agent",
    "human-for-agent": "human_agent_on_behalf_of_ai_agent",
}


@click.command(cls=Command)
@click.argument("message", required=False)
@session_options
@option("--key", help="Post once under this key, however often this is run.")
@option("--as", "as_", type=click.Choice(list(_SPEAKERS)), default="customer", help="Who speaks.  [customer]")
@option("--name", metavar="NAME", help="With --as human: the name that the customer sees.")
@METADATA
@option("--stdin", "add_stdin", is_flag=True, help="Add the content of stdin below MESSAGE.")
@pass_app
def post(
    app: App,
    /,
    message: str | None,
    key: str | None,
    as_: str,
    name: str | None,
    metadata: tuple[str, ...],
    add_stdin: bool,
    **options: Any,
) -> None:
    """Post a message and do not wait for the answer.

    Prints the session's id. Collect the answer with parlant-sync reply.
    Without MESSAGE, or if it is -, the message is read from stdin.

    \b
      parlant-sync post --conversation nightly --key 2026-11-30 "Anything new?"
      parlant-sync reply --conversation nightly --key 2026-11-30
      parlant-sync post --session-id ID --as human --name Dana "Hello"
    """
    wanted = target(options)
    if as_ != "customer" and not name:
        raise usage(f"--as {as_} needs --name NAME, the name that the customer sees")
    if key is not None and wanted.session_id is None and wanted.conversation is None:
        raise usage("--key needs --session-id or --conversation: each new session would get the message again")
    participant = {"display_name": name} if name else None
    extra = mapping("--metadata", metadata)
    output.check()
    text = read_message(message, add_stdin=add_stdin)
    with app.client() as client, opened(app, client, wanted) as session, waiting_for(client.base_url, client):
        event = session.find(key) if key is not None else None
        found = event is not None
        if event is None:
            try:
                event = session.post(text, key=key, metadata=extra, participant=participant, source=_SPEAKERS[as_])
            except DeliveryUncertain as error:
                speaker = ["--as", as_, "--name", name] if name else []
                command = ["post", "--session-id", session.id, *speaker]
                raise CommandError(UNCERTAIN, uncertain(error, app.again, *command)) from error
    if app.json:
        output.answer_json(
            {
                "session_id": session.id,
                "event_id": event.id,
                "offset": event.offset,
                "key": key,
                "posted": not found,
                "trace_id": event.trace_id,
            }
        )
    else:
        output.answer(session.id)
    if found:
        output.note(f"a message with key {key!r} was posted before; nothing was posted now")
