"""Runs programs in processes of their own."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "process" / "programs"


@dataclass
class Done:
    code: int
    out: str
    err: str
    seconds: float


def command(program: str, *arguments: Any, python: str | Path = sys.executable) -> list[str]:
    """``-X dev -W error`` is not used: what a user's interpreter says by default must be nothing."""
    return [str(python), "-u", str(PROGRAMS / program), *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PARLANT_", "PYTHON"))}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


@contextlib.contextmanager
def gunicorn(folder: Path, log: Path, app: str, *options: str, workers: int = 1, **more: str) -> Iterator[str]:
    """The address of an application in ``folder``, served by gunicorn, whose output goes to ``log``. It ends with 0."""
    pytest.importorskip("gunicorn")
    command = [sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--threads", "8", "--bind", "127.0.0.1:0"]
    command += ["--workers", str(workers), "--graceful-timeout", "5", *options, app]
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=folder, stderr=output, env=environment(**more)) as process,
    ):
        try:
            while (found := re.search(r"Listening at: (\S+)", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
            yield found[1]
        finally:
            process.terminate()
            code = process.wait(timeout=20)
    assert code == 0, log.read_text()


def run(program: str, *arguments: Any, timeout: float = 60, python: str | Path = sys.executable, **more: str) -> Done:
    started = time.monotonic()
    done = subprocess.run(
        command(program, *arguments, python=python),
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
    )
    return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - started)
