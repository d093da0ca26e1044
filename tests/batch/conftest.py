"""What the tests of the batch share: the command in this process or in one of its own, and files of rows."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli_runs import COMMAND, Cli

from parlant_sync._api import posting
from parlant_sync.batch import policy
from parlant_sync.testing import FakeServer


@pytest.fixture
def server(parlant_server: FakeServer) -> FakeServer:
    """The stand-in, with the agent ``a``."""
    parlant_server.agent("a")
    return parlant_server


@pytest.fixture
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundredths of a second instead of seconds, between tries and between looks for a message."""
    monkeypatch.setattr(policy, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(policy, "_LONGEST_PAUSE", 0.05)
    monkeypatch.setattr(posting, "LOOKS", (0.0, 0.1, 0.2))


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``parlant-sync batch`` as a process; nothing of it outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        command = [*COMMAND, "batch", *map(str, arguments)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PARLANT_")}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process: subprocess.Popen[str] = subprocess.Popen(command, text=True, env=environment, **streams)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs ``parlant-sync batch`` in ``tmp_path`` to its end: exit code, stdout, stderr. Options as of ``Cli.run``."""
    cli = Cli("http://127.0.0.1:1", tmp_path)

    def run(*arguments: object, **options: Any) -> tuple[int, str, str]:
        done = cli.run("batch", *map(str, arguments), **options)
        return done.code, done.out, done.err

    return run


@pytest.fixture
def questions(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    """Writes rows to a file of input."""

    def write(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / "questions.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write
