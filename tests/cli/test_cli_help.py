"""The help reads well at 80 columns, and the command starts without loading what it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.cli_runs import Cli

COMMANDS = ["send", "post", "reply", "trigger", "chat", "tail"]
COMMANDS += ["agents", "sessions", "conversations", "doctor", "batch", "demo"]
PAGES = [(), *((name,) for name in COMMANDS), *(("sessions", name) for name in ("list", "show", "create", "delete"))]


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_help_at_80_columns(nowhere: Cli, page: tuple[str, ...]) -> None:
    done = nowhere.run(*page, "--help", env={"COLUMNS": "80"})
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith(f"Usage: {' '.join(('parlant-sync', *page))}")
    assert max(map(len, lines)) <= 80
    assert "--server URL" in done.out


def test_the_first_page_tells_what_one_needs(nowhere: Cli) -> None:
    done = nowhere.run("-h", process=True)
    assert (done.code, done.err) == (0, "")
    text = done.out
    for word in (*COMMANDS, "Exit codes", "130", "PARLANT_SERVER", "bash_source", "zsh_source", "fish_source"):
        assert word in text


def test_version(nowhere: Cli) -> None:
    from parlant_sync import __version__

    assert nowhere.run("--version").out == f"parlant-sync {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(nowhere: Cli, shell: str) -> None:
    done = nowhere.run(env={"_PARLANT_SYNC_COMPLETE": f"{shell}_source"})
    assert (done.code, "parlant-sync" in done.out) == (0, True)
    env = {"_PARLANT_SYNC_COMPLETE": "bash_complete", "COMP_WORDS": "parlant-sync se", "COMP_CWORD": "1"}
    assert {"plain,send", "plain,sessions"} <= set(nowhere.run(env=env).out.splitlines())
    env |= {"COMP_WORDS": "parlant-sync tail --cur", "COMP_CWORD": "2"}
    assert nowhere.run(env=env).out == "plain,--cursor-file\n"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("tail --cursor-file", "file"),
        ("send --token-file", "file"),
        ("--token-file", "file"),
        ("send --state-dir", "dir"),
        ("batch", "file"),
        ("batch report", "file"),
        ("batch compare old.jsonl", "file"),
    ],
)
def test_completion_of_files(nowhere: Cli, words: str, kind: str) -> None:
    env = {"_PARLANT_SYNC_COMPLETE": "bash_complete", "COMP_WORDS": f"parlant-sync {words} be"}
    env["COMP_CWORD"] = str(len(words.split()) + 1)
    assert nowhere.run(env=env).out == f"{kind},be\n"


def test_fish_takes_a_completion_as_a_whole(nowhere: Cli) -> None:
    """Its script cuts at the first comma only: values (``message,status``) and descriptions hold some, too."""
    script = nowhere.run(env={"_PARLANT_SYNC_COMPLETE": "fish_source"}).out
    assert 'string split --max 1 "," $completion' in script


def test_each_command_loads_only_what_it_needs() -> None:
    code = """
import sys
import parlant_sync.cli, parlant_sync.cli.commands.send
heavy = ["asyncio", "tenacity", "parlant_sync.batch", "parlant_sync.demo", "parlant_sync.testing",
         "parlant_sync.cli.commands.chat", "parlant_sync.cli.conversations", "parlant_sync.cli.turn_view",
         "click.shell_completion"]
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_help_that_nobody_takes(nowhere: Cli) -> None:
    # The reader has gone for certain before anything is written.
    done = nowhere.shell("mkfifo p; true < p & exec 3> p; wait; $CLI send --help >&3; echo $?")
    assert (done.out, done.err) == ("0\n", "")
    full = nowhere.shell("$CLI send --help > /dev/full")
    full.failed(1, "could not be written", "No space left")


def test_defaults_are_in_one_piece(nowhere: Cli) -> None:
    assert "[~/.local/state/parlant-sync]" in nowhere.run("send", "--help", env={"COLUMNS": "80"}).out
