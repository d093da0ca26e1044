"""Whole processes: an import, and one message from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import OFFICIAL, OURS, THREAD, Row, medians, ratio
from benchmarks.running import Bench, BenchError

# Single processes differ much: more pairs than elsewhere.
_PAIRS = 21
# What only some users need: none of it is to be loaded by the import.
_HEAVY = ("tenacity", "click", "asyncio", "parlant_sync.cli", "parlant_sync.batch", "parlant_sync.demo")
# Ours with what there is to use of it: the package alone loads nothing.
_IMPORTS = {OURS: "from parlant_sync import Client", OFFICIAL: "import parlant.client", THREAD: "import requests"}
_SCRIPT = """
import click, requests
URL = {url!r}
@click.command()
@click.argument("message")
def main(message):
    body = {{"kind": "message", "source": "customer", "message": message}}
    answer = requests.post(URL, json=body)
    answer.raise_for_status()
    click.echo(answer.json()["id"])
main()
"""


def measure(bench: Bench) -> list[Row]:
    return [_imports(bench), _send(bench)]


class _Spent:
    """Seconds of a finished process: by the clock, and of CPU, as the system counted them."""

    def __init__(self, bench: Bench, command: Sequence[str]) -> None:
        started, before = time.perf_counter(), os.times()
        done = subprocess.run(command, env=bench.environment, capture_output=True, text=True, cwd=bench.folder)
        after = os.times()
        self.wall = time.perf_counter() - started
        self.cpu = after.children_user + after.children_system - before.children_user - before.children_system
        if done.returncode != 0:
            raise BenchError(f"exit code {done.returncode}: {' '.join(command)}\n{done.stdout}{done.stderr}")
        self.output = done.stdout


def _pairs(bench: Bench, commands: dict[str, list[str]]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds by the clock, and seconds of CPU."""
    for command in commands.values():
        _Spent(bench, command)  # writes the byte code
    pairs = bench.pick(max(_PAIRS, bench.runs), 1)
    spent = bench.rounds(commands, lambda name: _Spent(bench, commands[name]), runs=pairs)
    wall = {name: [run.wall for run in runs] for name, runs in spent.items()}
    cpu = {name: [run.cpu for run in runs] for name, runs in spent.items()}
    return wall, cpu


def _imports(bench: Bench) -> Row:
    _, cpu = _pairs(bench, {name: [sys.executable, "-c", code] for name, code in _IMPORTS.items()})
    to_requests = ratio(cpu, OURS, THREAD)
    found = f"import sys, parlant_sync; print(*[m for m in {_HEAVY!r} if m in sys.modules])"
    heavy = _Spent(bench, [sys.executable, "-c", found]).output.strip()
    return Row(
        "startup",
        "import, whole process, CPU",
        "s",
        medians(cpu),
        f"{to_requests:.2f} x{heavy and f', loads {heavy}'}",
        "≤ 1.15 x import requests, nothing heavy loaded",
        to_requests <= 1.15 and not heavy,
        "with byte code in place; the requests thread is import requests",
    )


def _send(bench: Bench) -> Row:
    """The turn is over at once, so that what is left is the command's own."""
    script = bench.folder / "post.py"
    script.write_text(_SCRIPT.format(url=f"{bench.url}/sessions/turn.0.x/events"))
    program = Path(sys.executable).with_name("parlant-sync")
    commands = {OURS: [str(program), "-s", bench.url, "send", "--agent-id", "turn.0", "hello"]}
    commands[THREAD] = [sys.executable, str(script), "hello"]
    wall, cpu = _pairs(bench, commands)
    slower = ratio(wall, OURS, THREAD)
    return Row(
        "startup",
        "parlant-sync send, whole process, the turn at once",
        "s",
        medians(wall),
        f"{slower:.2f} x ({ratio(cpu, OURS, THREAD):.2f} x in CPU)",
        "≤ 1.10 x a script",
        slower <= 1.10,
        "the script imports requests and click and posts once; the command also makes a session and waits",
    )
