"""The table and the JSON of a benchmark."""

from __future__ import annotations

import datetime
import os
import platform
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.rows import CONTESTANTS, Row

_WIDTH = 150


def machine(*, quick: bool, runs: int, seconds: float) -> dict[str, Any]:
    """What the figures depend on. No names of machines or users."""
    packages = {}
    for name in ("parlant-sync", "parlant-client", "parlant", "requests", "urllib3"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = "-"
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": packages,
        "runs": runs,
        "quick": quick,
        "seconds": round(seconds),
    }


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"


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


def verdict(row: Row) -> str:
    return {None: "", True: "met", False: "NOT MET"}[row.met]


def table(facts: Mapping[str, Any], rows: Sequence[Row], notes: Sequence[str]) -> str:
    header = ["what", "unit", *CONTESTANTS, "result", "bar", ""]
    lines = [header]
    for row in rows:
        figures = [number(row.figures[name]) if name in row.figures else "-" for name in CONTESTANTS]
        lines.append([row.what, row.unit, *figures, row.result, row.bar, verdict(row)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    right = range(2, 2 + len(CONTESTANTS))
    text = [*textwrap.wrap(describe(facts), _WIDTH), ""]
    for position, line in enumerate(lines):
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        text.append("  ".join(cells).rstrip())
        if position == 0:
            text.append("  ".join("-" * width for width in widths))
    every = [f"{row.what}: {note}" for row in rows for note in row.notes] + list(notes)
    text += ["", *(f"- {note}" for note in every)] if every else []
    return "\n".join(text)


def markdown(facts: Mapping[str, Any], rows: Sequence[Row], notes: Sequence[str]) -> str:
    """For docs/performance.md."""
    lines = [
        f"| what | {' | '.join(CONTESTANTS)} | result | bar |",
        f"| --- |{' ---: |' * len(CONTESTANTS)} --- | --- |",
    ]
    for row in rows:
        figures = [f"{number(row.figures[n])} {row.unit}".strip() if n in row.figures else "" for n in CONTESTANTS]
        result = f"**{verdict(row).lower()}**: {row.result}" if row.bar else row.result
        bar = row.bar.replace("<=", "≤").replace(">=", "≥")
        lines.append(f"| {row.what.replace('->', '→')} | {' | '.join(figures)} | {result} | {bar} |")
    every = [f"{row.what.replace('->', '→')}: {note}" for row in rows for note in row.notes] + list(notes)
    text = [*textwrap.wrap(describe(facts) + ".", 120), "", *lines]
    return "\n".join([*text, "", *(f"- {note}." for note in every)] if every else text)


def as_json(facts: Mapping[str, Any], rows: Sequence[Row], notes: Sequence[str]) -> dict[str, Any]:
    return {
        "machine": dict(facts),
        "rows": [
            {
                "scenario": row.scenario,
                "what": row.what,
                "unit": row.unit,
                "figures": {name: round(value, 6) for name, value in row.figures.items()},
                "result": row.result,
                "bar": row.bar,
                "met": row.met,
                "notes": row.notes,
            }
            for row in rows
        ],
        "notes": list(notes),
    }
