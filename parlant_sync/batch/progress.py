"""The line at the bottom of a terminal: how far a batch is, how fast, how much went wrong, and how long to go."""

from __future__ import annotations

import shutil
from collections.abc import Callable

from parlant_sync.batch.results import Summary

_BAR = 20


def progress_line(summary: Summary, *, width: int) -> str:
    """``[#####-----] 50/100  3.2/s  1 failed  0:16 left``, in at most ``width`` characters."""
    done = summary.rows - summary.left
    filled = _BAR * done // summary.rows if summary.rows else _BAR
    here = done - summary.skipped
    rate = here / summary.seconds if summary.seconds > 0 else 0.0
    parts = [f"[{'#' * filled}{'-' * (_BAR - filled)}] {done}/{summary.rows}"]
    if here:
        parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min")
    if summary.failed:
        parts.append(f"{summary.failed} failed")
    if here and summary.left:
        parts.append(f"{duration(summary.left / rate)} left")
    return "  ".join(parts)[: max(0, width)]


def duration(seconds: float) -> str:
    """``0:05``, ``12:30``, ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def summary_lines(summary: Summary) -> list[str]:
    """What is said at the end."""
    names = {"timed_out": "timed out"}
    counts = [f"{count} {names.get(status, status)}" for status, count in sorted(summary.counts.items())]
    if summary.left:
        counts.append(f"{summary.left} not finished")
    lines = [f"{summary.rows} rows: {', '.join(counts) or 'none asked'}"]
    if summary.skipped:
        lines[0] += f" ({summary.skipped} by earlier runs)"
    if summary.p50 is not None and summary.p95 is not None:
        lines.append(f"turns: p50 {summary.p50:.2f} s, p95 {summary.p95:.2f} s; {duration(summary.seconds)} in all")
    if summary.failed:
        lines.append(f"the same command with --retry-failed asks the {summary.failed} without an answer again")
    return lines


class Progress:
    """Keeps the line up to date. ``write`` is told what goes to the terminal; without one nothing is drawn."""

    def __init__(self, write: Callable[[str], None] | None) -> None:
        self._write = write

    def show(self, summary: Summary) -> None:
        if self._write is not None:
            # One column is left free: some terminals wrap when the last one is written.
            width = shutil.get_terminal_size().columns - 1
            self._write("\r\x1b[K" + progress_line(summary, width=width))

    def clear(self) -> None:
        """Before anything else is written there, and at the end."""
        if self._write is not None:
            self._write("\r\x1b[K")
