"""64 workers on turns of 200 ms."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.rows import OURS, Row
from benchmarks.running import Bench

_WORKERS, _LENGTH = 64, 0.2


def measure(bench: Bench) -> list[Row]:
    rounds = bench.pick(20, 2)
    ideal, count = rounds * _LENGTH, rounds * _WORKERS
    (runs,) = bench.rounds([OURS], lambda name: bench.work("batch.ask", name, count=count)).values()
    seconds, cpu = (median(column) for column in zip(*runs, strict=True))
    share, each = ideal / seconds, cpu / count * 1000
    what = f"batch: {count} questions, {_WORKERS} workers, turns of 200 ms"
    spent = f"batch, {_WORKERS} workers: CPU of the driver for each row"
    result = f"{share:.0%} of ideal ({ideal:.1f} s)"
    return [
        Row("batch", what, "s", {OURS: seconds}, result, "≥ 90 % of ideal", share >= 0.9),
        Row("batch", spent, "ms", {OURS: each}, f"{each:.1f} ms", "≤ 4 ms", each <= 4),
    ]


def ask(contestant: str, url: str, count: int) -> tuple[float, float]:
    """Seconds, and seconds of CPU, for all: each in a session of its own, with a results file as the command has."""
    from parlant_sync import batch

    rows = [{"id": str(number), "message": "hello"} for number in range(count)]
    agent = f"turn.{int(_LENGTH * 1000)}"
    with tempfile.TemporaryDirectory() as folder:
        started, before = time.perf_counter(), time.process_time()
        with batch.run(
            rows, results=Path(folder) / "results.jsonl", agent_id=agent, base_url=url, concurrency=_WORKERS
        ) as running:
            good = sum(result.ok for result in running)
        seconds, spent = time.perf_counter() - started, time.process_time() - before
    assert good == count, f"{good} of {count}"
    return seconds, spent
