"""What a measurement comes to: rows of the table, and the arithmetic on runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Who is compared, in the order of the table's columns.
OURS, OFFICIAL, THREAD, LIMIT = "parlant_sync", "parlant-client", "requests thread", "http.client"
CONTESTANTS = (OURS, OFFICIAL, THREAD, LIMIT)


@dataclass
class Row:
    """One line. ``figures`` are in ``unit``, by contestant; ``met`` is None where there is no bar."""

    scenario: str
    what: str
    bar: str
    unit: str
    figures: Mapping[str, float]
    result: str = ""
    met: bool | None = None
    notes: list[str] = field(default_factory=list)


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


def medians(runs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: median(values) for name, values in runs.items() if values}


def ratio(runs: Mapping[str, Sequence[float]], a: str, b: str) -> float | None:
    """The median of a/b, run by run: what changes the machine's speed changes both."""
    if not runs.get(a) or not runs.get(b):
        return None
    return median([x / y for x, y in zip(runs[a], runs[b], strict=False)])


def difference(runs: Mapping[str, Sequence[float]], a: str, b: str) -> float | None:
    """The median of a - b, run by run."""
    if not runs.get(a) or not runs.get(b):
        return None
    return median([x - y for x, y in zip(runs[a], runs[b], strict=False)])
