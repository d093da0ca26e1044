"""The table and the JSON of a benchmark."""

from __future__ import annotations

import datetime
import os
import platform
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.rows import CONTESTANTS, Row


def machine(*, quick: bool, runs: int) -> dict[str, Any]:
    """What the figures depend on. No names of machines or users."""
    packages = ("parlant-sync", "parlant-client", "requests", "urllib3")
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "runs": runs,
        "quick": quick,
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def describe(facts: Mapping[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    quick = " (quick: these figures mean nothing)" if facts["quick"] else ""
    return (
        f"{facts['date']}, {facts['cores']} cores of {facts['cpu']}, {facts['system']}, Python {facts['python']}, "
        f"{packages}; medians of {facts['runs']} runs{quick}"
    )


def number(value: float) -> str:
    """Three digits that matter."""
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(facts: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Markdown, as docs/performance.md has it, with straight columns for the terminal."""
    lines = [["what", *CONTESTANTS, "result", "bar"], ["---", *["---:"] * len(CONTESTANTS), "---", "---"]]
    for row in rows:
        figures = [f"{number(row.figures[n])} {row.unit}".strip() if n in row.figures else "" for n in CONTESTANTS]
        lines.append([row.what, *figures, f"**{'met' if row.met else 'not met'}**: {row.result}", row.bar])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [*textwrap.wrap(f"{describe(facts)}.", 120), ""]
    for line in lines:
        text.append(f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |")
    notes = [f"- {row.what}: {row.note}." for row in rows if row.note]
    return "\n".join([*text, "", *notes])


def as_json(facts: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    return {"machine": dict(facts), "rows": [asdict(row) for row in rows]}
