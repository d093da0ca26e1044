"""What the tests of the batch share: the real server, and a batch as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts ``parlant-sync batch`` with these arguments; nothing of it outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        code = "import sys; from parlant_sync.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", code, "batch", *map(str, arguments)]
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
def command(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., tuple[int, str, str]]:
    """Runs it to its end: exit code, stdout, stderr."""

    def run(*arguments: object, **options: Any) -> tuple[int, str, str]:
        process = start(*arguments, **options)
        out, err = process.communicate(timeout=100)
        return process.returncode, out, err

    return run


@pytest.fixture
def questions(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    """Writes rows to a file of input."""

    def write(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / "questions.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write
