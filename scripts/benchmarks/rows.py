"""What a measurement comes to: rows of the table, and the arithmetic on runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

# Who is compared, in the order of the table's columns.
OURS, OFFICIAL, THREAD, LIMIT = "parlant_sync", "parlant-client", "requests thread", "http.client"
CONTESTANTS = (OURS, OFFICIAL, THREAD, LIMIT)


@dataclass(frozen=True)
class Row:
    """One line. ``figures`` are in ``unit``, by contestant; ``met``: whether the result is within the bar."""

    scenario: str
    what: str
    unit: str
    figures: Mapping[str, float]
    result: str
    bar: str
    met: bool
    note: str = ""


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank."""
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def medians(runs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: median(values) for name, values in runs.items()}


def ratio(runs: Mapping[str, Sequence[float]], a: str, b: str) -> float:
    """The median of a/b, run by run: what changes the machine's speed changes both."""
    return median(x / y for x, y in zip(runs[a], runs[b], strict=True))


def difference(runs: Mapping[str, Sequence[float]], a: str, b: str) -> float:
    """The median of a - b, run by run."""
    return median(x - y for x, y in zip(runs[a], runs[b], strict=True))
