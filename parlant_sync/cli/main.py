"""The root of the command line: which commands there are, and how a run begins and ends."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from parlant_sync.cli import errors, output
from parlant_sync.cli.app import App
from parlant_sync.cli.options import Group
from parlant_sync.cli.output import one_line, visible
from parlant_sync.cli.signals import Signals, Terminated

_PROGRAM = "parlant-sync"
# Loaded when they are called: name, and the line that --help shows.
_COMMANDS = {
    "send": "Ask an agent and print its answer.",
    "post": "Post a message and do not wait for the answer.",
    "reply": "Collect the answer to a message posted before.",
    "trigger": "Ask the agent to speak without a message.",
    "chat": "Hold a conversation at the terminal.",
    "tail": "Print or forward a session's events as they come.",
    "agents": "List the agents of the server.",
    "sessions": "List, show, create, change and delete sessions.",
    "conversations": "List, show and forget the kept conversations.",
    "batch": "Ask many questions, resumably.",
    "doctor": "Check what works and what does not.",
    "demo": "Start a server here and hold a conversation.",
}


class _Lazy(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = getattr(importlib.import_module(f"{__package__}.commands.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from parlant_sync import __version__

        output.answer(f"{_PROGRAM} {__version__}")
        ctx.exit()


_EPILOG = """\
You can put the options above before or after the command. You can set every
option of every command in the environment: --server as PARLANT_SERVER,
--agent-id as PARLANT_AGENT_ID. Give the token in PARLANT_TOKEN or --token-file.
A profile is a table [profiles.NAME] in ~/.config/parlant-sync/config.toml.
Durations are seconds, or 90s, 5m, 1h.

\b
The answer goes to stdout, everything else to stderr. Exit codes:
  0  answered                        6  refused: token, permission, ids, data
  1  unexpected, or cannot write     7  delivered or not: uncertain
  2  usage                           8  another run holds the lock
  3  server down or busy: try later  9  batch ended with failed rows
  4  timed out                     130  Ctrl-C
  5  the agent reported an error   143  SIGTERM

\b
Completion, for your shell's start file:
  bash  eval "$(_PARLANT_SYNC_COMPLETE=bash_source parlant-sync)"
  zsh   eval "$(_PARLANT_SYNC_COMPLETE=zsh_source parlant-sync)"
  fish  _PARLANT_SYNC_COMPLETE=fish_source parlant-sync | source

\b
To start:
  parlant-sync demo
  parlant-sync -s http://localhost:8800 send "What can you do?"
"""


@click.command(cls=_Lazy, root=True, name=_PROGRAM, epilog=_EPILOG)
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Show the version.")
def root() -> None:
    """Talk to the agents of a Parlant server: from scripts, from cron, at a terminal."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's) and return its exit code."""
    try:
        with Signals() as signals:
            app = App(signals)
            try:
                output.prepare()
                return _run(app, list(sys.argv[1:] if argv is None else argv))
            except BaseException as error:
                if isinstance(error, (SystemExit, GeneratorExit)):
                    raise
                return _failed(app, error)
            finally:
                app.stop()
    except (KeyboardInterrupt, Terminated) as late:  # in the moments around the command
        return errors.exit_code(late)


def _run(app: App, argv: list[str]) -> int:
    if "_PARLANT_SYNC_COMPLETE" in os.environ:
        from parlant_sync.cli.completion import teach_fish

        teach_fish()
        root.main(argv, prog_name=_PROGRAM, obj=app)  # the shell asks: click answers, and ends the process
    try:
        # Not root.main(): that turns Ctrl-C and closed pipes into exit codes of its own.
        with root.make_context(_PROGRAM, argv, obj=app) as context:
            result = root.invoke(context)
        output.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        output.note_raw(error.format_message() + "\n")
        return errors.USAGE
    return result if isinstance(result, int) else errors.ANSWERED


def _failed(app: App, error: BaseException) -> int:
    code = errors.exit_code(error)
    if app.verbose > 1:
        _show_traceback(error)
    try:
        line = errors.line(error, app.again, app.token_source())
        as_json = app.json
    except errors.CommandError:  # the profile itself is what is wrong
        line, as_json = errors.line(error), False
    if line:
        output.note(one_line(line, 1000))
    if as_json and line and not isinstance(error, (KeyboardInterrupt, Terminated, output.OutputFailed)):
        try:
            output.answer_json(errors.to_json(error, one_line(line, 1000), app.session_id))
        except (output.OutputClosed, output.OutputFailed):
            pass  # the exit code still says it
    return code


def _show_traceback(error: BaseException) -> None:
    import traceback

    output.note_raw(visible("".join(traceback.format_exception(error))))
