"""64 workers on turns of 200 ms."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.rows import OURS, Row, median
from benchmarks.running import Bench

_WORKERS, _LENGTH = 64, 0.2


def measure(bench: Bench) -> list[Row]:
    rounds = bench.pick(20, 2)
    ideal = rounds * _LENGTH
    count = rounds * _WORKERS
    runs = bench.rounds([OURS], lambda name: bench.work("batch.ask", name, count=count))
    seconds, cpu = median([run[0] for run in runs[OURS]]), median([run[1] for run in runs[OURS]])
    share, each = ideal / seconds, cpu / count * 1000
    row = Row(
        "batch",
        f"batch: {count} questions, {_WORKERS} workers, turns of 200 ms",
        ">= 90 % of ideal",
        "s",
        {OURS: seconds},
        result=f"{share:.0%} of ideal ({ideal:.1f} s)",
        met=share >= 0.9,
    )
    spent = Row("batch", f"batch, {_WORKERS} workers: CPU of the driver for each row", "<= 4 ms", "ms", {OURS: each})
    spent.result, spent.met = f"{each:.1f} ms", each <= 4
    return [row, spent]


def ask(contestant: str, url: str, count: int, **_: Any) -> tuple[float, float]:
    """Seconds, and seconds of CPU, for all: each in a session of its own, with a results file as the command has."""
    import tempfile
    from pathlib import Path

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
