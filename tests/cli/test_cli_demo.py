"""``parlant-sync demo``."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.cli_runs import Cli

PYTHON = os.environ.get("PARLANT_SYNC_SERVER_PYTHON", sys.executable)
pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]


@pytest.fixture
def here(nowhere: Cli) -> Cli:
    """Commands with a folder for temporary files of their own, to see what is left in it."""
    (nowhere.home / "tmp").mkdir()
    nowhere.environment |= {"PARLANT_SYNC_SERVER_PYTHON": PYTHON, "TMPDIR": str(nowhere.home / "tmp")}
    return nowhere


def left(here: Cli) -> list[Path]:
    # At its first use tempfile tries whether it may write there: an interrupt at that very moment leaves its probe.
    found = (here.home / "tmp").iterdir()
    return [path for path in found if not (path.is_file() and re.fullmatch(r"[a-z0-9_]{8}", path.name))]


def test_it_holds_a_conversation_with_both_agents(here: Cli) -> None:
    done = here.run("demo")
    assert done.code == 0, done
    told = " ".join(done.out.split())
    # A question, one that depends on it, another agent, and one that depends on that.
    for text in (
        *("Research Papers", "What is retrieval-augmented generation?", "Who uses it?", "customer support"),
        *("Medical Welfare", "What is long-term care insurance?", "how do I apply for it?", "municipal office"),
    ):
        assert text in told
    assert max(map(len, done.out.splitlines())) <= 80
    assert "\x1b" not in done.out
    assert left(here) == []


def test_its_answers_as_json(here: Cli) -> None:
    done = here.run("demo", "-o", "json")
    assert done.code == 0
    assert [row["outcome"] for row in done.json_lines] == ["answered"] * 4
    assert len({row["session_id"] for row in done.json_lines}) == 2


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_keep_leaves_the_server_up_until_a_signal(here: Cli, signum: int, code: int) -> None:
    with here.start("demo", "--keep") as running:
        assert running.process.stderr is not None
        line = ""
        while not line.startswith("  parlant-sync"):
            line = running.process.stderr.readline().decode()
            assert line, "it ended"
        # The line that it offers works as it is.
        command = shlex.split(line)
        assert command[0] == "parlant-sync"
        offered = here.run(*command[1:])
        done = running.end(signum)
    assert (offered.code, "Users pay 10 per cent" in offered.out) == (0, True), offered
    assert done.code == code
    assert done.seconds < 2.5
    assert left(here) == []
    url = re.search(r"http://[0-9.:]+", line)
    assert url is not None
    here.run("agents", "-s", url.group()).failed(3, "refused")


def test_a_signal_while_it_starts(here: Cli) -> None:
    with here.start("demo") as running:
        assert running.process.stderr is not None
        assert b"starting" in running.process.stderr.readline()
        # Not in the moment in which tempfile tries its folders out: it would leave the file that it does so with.
        deadline = time.monotonic() + 30
        while not list((here.home / "tmp").glob("parlant-sync-demo-*/*")):
            assert time.monotonic() < deadline
        done = running.end(signal.SIGINT)
    assert (done.code, done.out) == (130, "")
    assert "Traceback" not in done.err
    assert left(here) == []


def test_without_parlant(here: Cli, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    done = here.run("demo", "--server-python", str(tmp_path / "bare/bin/python"))
    assert (done.code, done.out) == (1, "")
    assert 'pip install "parlant-sync[demo]"' in done.err
    nothing = here.run("demo", "--server-python", str(tmp_path / "nothing"))
    assert (nothing.code, "Traceback" in nothing.err) == (1, False)
