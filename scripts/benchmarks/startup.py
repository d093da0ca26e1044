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

    def __init__(self, bench: Bench, command: Sequence[str], environment: dict[str, str]) -> None:
        started = time.perf_counter()
        before = os.times()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=bench.folder)
        after = os.times()
        self.wall = time.perf_counter() - started
        self.cpu = after.children_user + after.children_system - before.children_user - before.children_system
        if done.returncode != 0:
            raise BenchError(f"exit code {done.returncode}: {' '.join(command)}\n{done.stdout}{done.stderr}")
        self.output = done.stdout


def _pairs(bench: Bench, commands: dict[str, list[str]]) -> dict[str, list[_Spent]]:
    for command in commands.values():
        _Spent(bench, command, bench.environment)  # writes the byte code
    pairs = bench.pick(max(_PAIRS, bench.runs), 1)
    return bench.rounds(commands, lambda name: _Spent(bench, commands[name], bench.environment), runs=pairs)


def _imports(bench: Bench) -> Row:
    names = bench.present(_IMPORTS)
    commands = {name: [sys.executable, "-c", _IMPORTS[name]] for name in names}
    spent = _pairs(bench, commands)
    cpu = {name: [run.cpu for run in runs] for name, runs in spent.items()}
    to_requests = ratio(cpu, OURS, THREAD)
    assert to_requests is not None
    row = Row("startup", "import, whole process, CPU", "<= 1.15 x import requests, nothing heavy loaded", "s", {})
    row.figures = medians(cpu)
    found = f"import sys, parlant_sync; print(*[m for m in {_HEAVY!r} if m in sys.modules])"
    heavy = _Spent(bench, [sys.executable, "-c", found], bench.environment).output.split()
    row.result = f"{to_requests:.2f} x" + (f", loads {' '.join(heavy)}" if heavy else "")
    row.met = to_requests <= 1.15 and not heavy
    row.notes.append("with byte code in place; the requests thread is import requests")
    return row


def _send(bench: Bench) -> Row:
    """The turn is over at once, so that what is left is the command's own."""
    url = bench.plain.url
    script = bench.folder / "post.py"
    script.write_text(_SCRIPT.format(url=f"{url}/sessions/turn.0.x/events"))
    program = Path(sys.executable).with_name("parlant-sync.exe" if os.name == "nt" else "parlant-sync")
    start = [str(program)] if program.exists() else [sys.executable, "-m", "parlant_sync"]
    commands = {OURS: [*start, "-s", url, "send", "--agent-id", "turn.0", "hello"]}
    commands[THREAD] = [sys.executable, str(script), "hello"]
    spent = _pairs(bench, commands)
    wall = {name: [run.wall for run in runs] for name, runs in spent.items()}
    cpu = {name: [run.cpu for run in runs] for name, runs in spent.items()}
    slower, dearer = ratio(wall, OURS, THREAD), ratio(cpu, OURS, THREAD)
    assert slower is not None
    assert dearer is not None
    row = Row("startup", "parlant-sync send, whole process, the turn at once", "<= 1.10 x a script", "s", medians(wall))
    row.result, row.met = f"{slower:.2f} x ({dearer:.2f} x in CPU)", slower <= 1.10
    row.notes.append("the script imports requests and click and posts once; the command also makes a session and waits")
    return row
