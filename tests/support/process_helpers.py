"""Runs programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
