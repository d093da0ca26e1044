"""16 workers on turns of 200 ms."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.rows import OURS, Row, medians
from benchmarks.running import Bench

_WORKERS, _LENGTH = 16, 0.2


def measure(bench: Bench) -> list[Row]:
    rounds = bench.pick(40, 2)
    ideal = rounds * _LENGTH
    count = rounds * _WORKERS
    runs = bench.rounds([OURS], lambda name: bench.work("batch.ask", name, count=count))
    share = ideal / medians(runs)[OURS]
    row = Row(
        "batch",
        f"batch: {count} questions, {_WORKERS} workers, turns of 200 ms",
        ">= 90 % of ideal",
        "s",
        {OURS: medians(runs)[OURS]},
        result=f"{share:.0%} of ideal ({ideal:.1f} s)",
        met=share >= 0.9,
    )
    return [row]


def ask(contestant: str, url: str, count: int, **_: Any) -> float:
    """Seconds for all, each in a session of its own, with a results file as the command keeps one."""
    import tempfile
    from pathlib import Path

    from parlant_sync import batch

    rows = [{"id": str(number), "message": "hello"} for number in range(count)]
    agent = f"turn.{int(_LENGTH * 1000)}"
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with batch.run(
            rows, results=Path(folder) / "results.jsonl", agent_id=agent, base_url=url, concurrency=_WORKERS
        ) as running:
            good = sum(result.ok for result in running)
        seconds = time.perf_counter() - started
    assert good == count, f"{good} of {count}"
    return seconds
