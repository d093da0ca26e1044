"""Bars that a person can read, as SVG, by a small writer of our own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.report import describe, number
from benchmarks.rows import CONTESTANTS, LIMIT, OFFICIAL, OURS, THREAD, Row

_COLOURS = {OURS: "#1f6feb", OFFICIAL: "#b35900", THREAD: "#8a8f98", LIMIT: "#3c9a5f"}
_WIDTH, _LEFT, _RIGHT = 900, 190, 110
_BAR, _GAP, _HEAD = 15, 4, 24


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
    goal = f"   bar {row.bar}; {'met' if row.met else 'not met'}: {row.result}"
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


def lines(
    title: str, x_label: str, series: Mapping[str, Sequence[tuple[float, float]]], *, logarithmic: bool = False
) -> str:
    """One line for each of ``series``, with its values at the points if there are few."""
    width, height, left, top, bottom = 760, 420, 70, 60, 370
    places = [point for points in series.values() for point in points]
    scale: Callable[[float], float] = (lambda value: math.log10(max(value, 1e-3))) if logarithmic else float
    xs, ys = [scale(x) for x, _ in places], [scale(y) for _, y in places]
    low = min(ys) - 0.1 if logarithmic else 0.0
    wide, high = (max(xs) - min(xs)) or 1.0, (max(ys) * 1.05 - low) or 1.0

    def at(point: tuple[float, float]) -> tuple[float, float]:
        x = left + (width - left - 190) * (scale(point[0]) - min(xs)) / wide
        return x, bottom - (bottom - top) * (scale(point[1]) - low) / high

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(12, 24, title + (" (both axes logarithmic)" if logarithmic else ""), size=15, bold=True),
        f'<path d="M{left} {top}V{bottom}H{width - 190}" stroke="#8a8f98" fill="none"/>',
        _text((left + width - 190) / 2, height - 10, x_label, anchor="middle", colour="#57606a"),
    ]
    for x in sorted({x for x, _ in places} if logarithmic else {0, max(x for x, _ in places)}):
        parts.append(_text(at((x, max(places)[1]))[0], bottom + 16, f"{x:,.0f}", anchor="middle"))
    for (name, points), colour in zip(series.items(), _COLOURS.values(), strict=False):
        found = [at(point) for point in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in found)
        parts.append(f'<path d="M{path}" stroke="{colour}" stroke-width="2" fill="none"/>')
        parts.append(_text(found[-1][0] + 8, found[-1][1] + 4, f"{name}: {number(points[-1][1])}", colour=colour))
        if len(points) < 10:
            for (x, y), point in zip(found[:-1], points, strict=False):
                parts.append(_text(x, y - 6, number(point[1]), colour=colour, anchor="middle"))
    return "\n".join([*parts, "</svg>", ""])


def _text(
    x: float, y: float, text: str, *, size: int = 12, bold: bool = False, colour: str = "#1f2328", anchor: str = "start"
) -> str:
    weight = ' font-weight="600"' if bold else ""
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {where} font-size="{size}" fill="{colour}"{weight}>{escape(text)}</text>'
