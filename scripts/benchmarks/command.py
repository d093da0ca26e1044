"""The command: which scenarios, and what becomes of their rows."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import growth, report, svg
from benchmarks.rows import Row
from benchmarks.running import Bench, BenchError

# By module; each has a function measure(bench).
SCENARIOS = ("backlog", "latency", "closing", "idle", "traffic", "startup", "batch")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench.py",
        description="Measures this SDK beside the official sync client, a hand-written thread with requests, and the "
        "limit (http.client and json.loads): interleaved, medians of the runs, ratios run by run.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="also draw bars")
    parser.add_argument("--growth", type=Path, metavar="FOLDER", help="only draw how cost grows: three plots")
    parser.add_argument("--quick", action="store_true", help="everything once and small: shows that it works, no more")
    parser.add_argument("--only", action="append", choices=SCENARIOS, metavar="NAME", help=", ".join(SCENARIOS))
    parser.add_argument("--runs", type=int, default=7, metavar="N", help="of each contestant; 7")
    return parser.parse_args(arguments)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    rows: list[Row] = []
    failed = False
    with Bench(quick=options.quick, runs=options.runs, say=say) as bench:
        if options.growth is not None:
            for file in growth.draw(bench, options.growth):
                say(f"drawn: {file}")
            return 0
        for name in options.only or SCENARIOS:
            say(f"{name} ...")
            measure: Callable[[Bench], list[Row]] = importlib.import_module(f"benchmarks.{name}").measure
            begun = time.monotonic()
            try:
                rows += measure(bench)
            except BenchError as error:
                failed = True
                say(f"{name} failed: {error}")
            else:
                say(f"{name}: {time.monotonic() - begun:.0f} s")
    machine = report.machine(quick=options.quick, runs=bench.runs)
    print(json.dumps(report.as_json(machine, rows), indent=1) if options.json else report.table(machine, rows))
    if options.plot is not None:
        options.plot.write_text(svg.draw(rows, machine), "utf-8")
        say(f"drawn: {options.plot}")
    return 1 if failed else 0
