"""Bars that a person can read, as SVG, by a small writer of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.report import describe, number
from benchmarks.rows import CONTESTANTS, LIMIT, OFFICIAL, OURS, THREAD, Row

_COLOURS = {OURS: "#1f6feb", OFFICIAL: "#b35900", THREAD: "#8a8f98", LIMIT: "#3c9a5f"}
_WIDTH, _LEFT, _RIGHT = 900, 190, 110
_BAR, _GAP, _HEAD = 15, 4, 24
_VERDICTS = {None: "", True: "met: ", False: "not met: "}


def draw(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    """One group of bars for each row with something to compare; the longest bar of a group is its largest figure."""
    shown = [row for row in rows if len(row.figures) > 1]
    parts: list[str] = []
    y = 62
    for row in shown:
        y = _group(parts, row, y)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>',
        _text(12, 22, "parlant_sync beside what one would use instead (shorter is better)", size=15, bold=True),
    ]
    caption = describe(facts).split(", parlant-sync", 1)[0]
    head.append(_text(12, 40, f"{caption}; medians of {facts['runs']} runs", colour="#57606a"))
    return "\n".join([*head, *parts, "</svg>", ""])


def _group(parts: list[str], row: Row, y: int) -> int:
    goal = f"   bar {row.bar}; {_VERDICTS[row.met]}{row.result}" if row.bar else f"   {row.result}"
    parts.append(_text(12, y + 12, row.what, bold=True))
    parts.append(_text(12 + 7 * len(row.what), y + 12, goal, colour="#57606a"))
    y += _HEAD - 4
    largest = max(row.figures.values()) or 1.0
    for name in (name for name in CONTESTANTS if name in row.figures):
        value = row.figures[name]
        length = max(1.5, (_WIDTH - _LEFT - _RIGHT) * max(value, 0.0) / largest)
        parts.append(_text(_LEFT - 8, y + 12, name, anchor="end"))
        parts.append(f'<rect x="{_LEFT}" y="{y}" width="{length:.1f}" height="{_BAR}" fill="{_COLOURS[name]}"/>')
        parts.append(_text(_LEFT + length + 6, y + 12, f"{number(value)} {row.unit}"))
        y += _BAR + _GAP
    return y + 12


def _text(
    x: float, y: float, text: str, *, size: int = 12, bold: bool = False, colour: str = "#1f2328", anchor: str = "start"
) -> str:
    weight = ' font-weight="600"' if bold else ""
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} font-size="{size}" fill="{colour}"{weight}>{escape(text)}</text>'
