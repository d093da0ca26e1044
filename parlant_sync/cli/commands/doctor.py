"""``parlant-sync doctor``."""

from __future__ import annotations

import sys
import textwrap
from dataclasses import asdict

import click

from parlant_sync.cli import output
from parlant_sync.cli.app import App
from parlant_sync.cli.commands.checkup import Check, Checkup
from parlant_sync.cli.options import Command, option, pass_app
from parlant_sync.cli.output import one_line
from parlant_sync.cli.target import STATE_DIR
from parlant_sync.cli.terminal import terminal_width, waiting_for

_MARKS = {"ok": "ok  ", "warning": "warn", "failed": "FAIL", "skipped": "--  "}


@click.command(cls=Command)
@option("--agent-id", metavar="ID", help="The agent to try.  [the first of the server's]")
@STATE_DIR
@pass_app
def doctor(app: App, /, agent_id: str | None, state_dir: str | None) -> int:
    """Check what works and what does not, and say what to do about it.

    Looks at the address, TLS, the server, the token, what the token may do, how
    long an event takes through a poll, and the folder for state. For the poll
    it makes a session, and deletes it again.

    The exit code is that of the first failure: 3 not reached, 6 refused, ...
    """
    code = 0
    checks: list[Check] = []
    with waiting_for("the next answer") as waiting:
        for check in Checkup(app, agent_id, state_dir).run():
            waiting.hide()
            checks.append(check)
            code = code or check.exit_code
            if not app.json:
                _print(check)
            waiting.show()
    if app.json:
        output.answer_json({"ok": code == 0, "checks": [asdict(check) for check in checks]})
    elif code:
        output.note("something is wrong: see FAIL above")
    return code


def _print(check: Check) -> None:
    width = terminal_width()
    colours = output.has_colours(sys.stdout)
    text = f"{_MARKS[check.state]}  {check.name:<12} {one_line(check.detail)}"
    lines = textwrap.wrap(text, width - 1, subsequent_indent=" " * 19) or [text]
    if check.state == "failed":
        lines[0] = output.bold(lines[0], colours)
    elif check.state == "skipped":
        lines = [output.dim(line, colours) for line in lines]
    if check.advice:
        lines += textwrap.wrap(
            f"-> {one_line(check.advice)}", width - 1, initial_indent=" " * 19, subsequent_indent=" " * 22
        )
    output.write("\n".join(lines) + "\n")
