"""``parlant-sync demo``."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli_runs import Cli, Run
from support.shared_servers import SharedServer, need_a_server
from support.waiting import wait_until

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]


@pytest.fixture
def here(nowhere: Cli) -> Cli:
    """Commands with a folder for temporary files of their own, to see what is left in it."""
    (nowhere.home / "tmp").mkdir()
    nowhere.environment |= {"PARLANT_SYNC_SERVER_PYTHON": need_a_server(), "TMPDIR": str(nowhere.home / "tmp")}
    return nowhere


@pytest.fixture
def interpreter(here: Cli) -> Callable[[str], Cli]:
    """Commands that start this shell script instead of an interpreter with the server."""

    def write(script: str) -> Cli:
        path = here.home / "python"
        path.write_text(f"#!/bin/sh\necho $$ > pid\n{script}\n")
        path.chmod(0o755)
        here.environment["PARLANT_SYNC_SERVER_PYTHON"] = str(path)
        return here

    return write


@pytest.fixture
def ready(interpreter: Callable[[str], Cli], demo: SharedServer) -> Cli:
    """Commands for which a server with quick agents starts at once: they are told of the shared one."""
    told = {
        "url": demo.base_url,
        "port": int(demo.base_url.rpartition(":")[2]),
        "version": demo.version,
        "agents": {"research": demo.agents["quick"], "welfare": demo.agents["streamer"]},
        "streaming": demo.streaming,
    }
    return interpreter(f"echo '{json.dumps(told)}'\nexec cat")  # which ends with its stdin


def nothing_left(here: Cli) -> bool:
    """No temporary file, and no process of the script."""
    # At its first use tempfile tries whether it may write there: an interrupt at that very moment leaves its probe.
    found = [path for path in (here.home / "tmp").iterdir() if path.is_dir() or not re.fullmatch(r"\w{8}", path.name)]
    pid = here.home / "pid"
    return not found and not (pid.exists() and Path("/proc", pid.read_text().strip()).exists())


def test_it_ends_by_itself_with_its_answers_as_json(ready: Cli) -> None:
    done = ready.run("demo", "-o", "json", process=True)
    assert done.code == 0, done
    assert nothing_left(ready)
    assert [row["outcome"] for row in done.json_lines] == ["answered"] * 4
    assert len({row["session_id"] for row in done.json_lines}) == 2


def kept(cli: Cli, signum: int) -> tuple[Run, Run, list[str]]:
    """How it ended by the signal, how the line that it offers ended, and that line."""
    with cli.start("demo", "--keep") as running:
        assert running.process.stderr is not None
        line = ""
        while not line.startswith("  parlant-sync"):
            line = running.process.stderr.readline().decode()
            assert line, "it ended"
        command = shlex.split(line)
        assert command[0] == "parlant-sync"
        offered = cli.run(*command[1:])
        return running.end(signum), offered, command


def test_it_holds_a_conversation_with_both_agents_and_keeps_the_server(here: Cli) -> None:
    done, offered, command = kept(here, signal.SIGINT)
    told = " ".join(done.out.split())
    # A question, one that depends on it, another agent, and one that depends on that.
    for text in (
        *("Research Papers", "What is retrieval-augmented generation?", "Who uses it?", "customer support"),
        *("Medical Welfare", "What is long-term care insurance?", "how do I apply for it?", "municipal office"),
    ):
        assert text in told
    assert max(map(len, done.out.splitlines())) <= 80
    assert "\x1b" not in done.out
    assert (offered.code, "Users pay 10 per cent" in offered.out) == (0, True), offered
    assert (done.code, done.seconds < 2.5) == (130, True)
    assert nothing_left(here)
    here.run("agents", "-s", command[command.index("-s") + 1]).failed(3, "refused")


def test_kept_until_sigterm(ready: Cli) -> None:
    done, offered, _ = kept(ready, signal.SIGTERM)
    assert (done.code, done.seconds < 2.5) == (143, True)
    assert offered.code == 0
    assert nothing_left(ready)


def test_a_signal_while_it_starts(here: Cli) -> None:
    """The real server: signalled before its process is known, it ends with its stdin and removes its folder."""
    with here.start("demo") as running:
        assert running.process.stderr is not None
        assert b"starting" in running.process.stderr.readline()
        wait_until(lambda: list((here.home / "tmp").glob("parlant-sync-demo-*/*")))
        done = running.end(signal.SIGINT)
    assert (done.code, done.out) == (130, "")
    assert "Traceback" not in done.err
    wait_until(lambda: nothing_left(here))


def test_without_parlant(interpreter: Callable[[str], Cli]) -> None:
    bare = interpreter(f'exec "{sys.executable}" -S "$@"')  # no site-packages
    done = bare.run("demo")
    assert (done.code, done.out) == (1, "")
    assert 'pip install "parlant-sync[demo]"' in done.err
    nothing = bare.run("demo", "--server-python", os.devnull)
    assert (nothing.code, "Traceback" in nothing.err) == (1, False)
