"""Batches that are killed (SIGKILL) at random moments while faults strike: nothing doubled, failed or lost.

Run by ``scripts/soak.py --batch-kills 500``, and as a small sample by tests/batch.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parlant_sync import Client
from soaking.strikes import Strikes

_ROWS = 24  # of one batch: more than can be done between two kills
_OPTIONS = "--agent-id quick --concurrency 4 --timeout 120 --settle 2 --quiet".split()


@dataclass
class Verdict:
    """What became of all rows, by the lists of the server and the files of results."""

    kills: int = 0
    batches: int = 0
    rows: int = 0
    doubled: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # another text than the row's own answer
    codes: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def findings(self) -> list[str]:
        kinds = {"doubled": self.doubled, "lost": self.lost, "failed": self.failed, "wrong": self.wrong}
        return [f"{name}: {row}" for name, rows in kinds.items() for row in rows]

    def line(self) -> str:
        return (
            f"{self.kills} kills, {self.batches} batches, {self.rows} rows, {sum(self.faults.values())} faults: "
            f"{len(self.doubled)} doubled, {len(self.lost)} lost, {len(self.failed)} failed, {len(self.wrong)} wrong"
        )


def run(base_url: str, *, kills: int, seed: int, say: Callable[[str], object] = lambda _: None) -> Verdict:
    """Kill so many runs of batches at this server, whose agent ``quick`` echoes; each batch is finished in the end."""
    chance = random.Random(seed)
    verdict = Verdict()
    # No restart: it loses turns, which is no fault of a batch.
    strikes = Strikes(base_url, seed, share=0.15, all_every=5)
    with strikes, tempfile.TemporaryDirectory() as folder:
        strikes.start()
        try:
            while verdict.kills < kills:
                _one_batch(verdict, Path(folder), strikes.base_url, base_url, kills, chance)
                verdict.faults = strikes.counts()
                say(verdict.line())
        finally:
            strikes.end()
    return verdict


def _one_batch(verdict: Verdict, folder: Path, through: str, server: str, kills: int, chance: random.Random) -> None:
    verdict.batches += 1
    name = f"soak-{os.getpid()}-{verdict.batches}"
    rows = [
        {"id": f"{name}-{n}", "messages": [f"{name}-{n}.{turn}" for turn in range(1 + n % 3)]} for n in range(_ROWS)
    ]
    verdict.rows += len(rows)
    questions, results = folder / f"{name}.in.jsonl", folder / f"{name}.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    command = [sys.executable, "-m", "parlant_sync", "batch", str(questions), "--results", str(results), "-s", through]
    begun = time.monotonic()
    while True:
        process = subprocess.Popen([*command, *_OPTIONS], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            code = process.wait(chance.uniform(0.4, 1.6) if verdict.kills < kills else 300)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            verdict.kills += 1
            continue
        verdict.codes[code] += 1
        if code in (0, 9) or time.monotonic() - begun > 600:
            break
    _judge(verdict, rows, results, server, name)


def _judge(verdict: Verdict, rows: list[dict[str, Any]], results: Path, server: str, name: str) -> None:
    lines = [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.exists() else []
    last = {line["id"]: line for line in lines}
    posted: Counter[str] = Counter()
    with Client(server) as client:
        for session in client.list_sessions(labels=[f"batch:{name}"]):
            for event in client.session(session.id).history(kinds="message", sources="customer"):
                posted[event.message or ""] += 1
    verdict.doubled += [message for message, count in posted.items() if count > 1]
    for row in rows:
        result = last.get(row["id"])
        if result is None or any(posted[message] == 0 for message in row["messages"]):
            verdict.lost.append(row["id"])
        elif result["status"] != "answered":
            verdict.failed.append(f"{row['id']}: {result['status']}: {result['error']}")
        elif [turn["text"] for turn in result["turns"]] != [f"echo: {message}" for message in row["messages"]]:
            verdict.wrong.append(f"{row['id']}: {result['turns']}")
