"""How a batch stands, in words: a line while it runs, and lines at its end."""

from __future__ import annotations

from parlant_sync.batch.results import Result, Summary

_BAR = 20


def progress_line(summary: Summary, waiting_for: str = "", *, bar: bool = True) -> str:
    """``[#####-----] 50/100  3.2/s  1 failed  0:16 left  429: next in 20 s``."""
    done = summary.rows - summary.left
    filled = _BAR * done // summary.rows if summary.rows else _BAR
    here = done - summary.skipped
    rate = here / summary.seconds if summary.seconds > 0 else 0.0
    parts = [f"[{'#' * filled}{'-' * (_BAR - filled)}] {done}/{summary.rows}" if bar else f"{done}/{summary.rows} rows"]
    if here:
        parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{rate * 60:.1f}/min")
    if summary.failed:
        parts.append(f"{summary.failed} failed")
    if waiting_for:
        parts.append(waiting_for)
    elif here and summary.left:
        parts.append(f"{duration(summary.left / rate)} left")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """``0:05``, ``12:30``, ``1:02:03``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def summary_lines(summary: Summary, *, empty_fails: bool = False) -> list[str]:
    """What a run reports at its end. ``empty_fails``: whether the option of this name was given."""
    names = {"timed_out": "timed out"}
    counts = [f"{count} {names.get(status, status)}" for status, count in sorted(summary.counts.items())]
    if summary.unmet:
        counts.append(f"{summary.unmet} not as expected")
    if summary.left:
        counts.append(f"{summary.left} not finished")
    lines = [f"{summary.rows} {_rows(summary.rows)}: {', '.join(counts) or 'none asked'}"]
    if summary.skipped:
        lines[0] += f" ({summary.skipped} by earlier runs)"
    if summary.p50 is not None and summary.p95 is not None:
        lines.append(f"turns: p50 {summary.p50:.2f} s, p95 {summary.p95:.2f} s; {duration(summary.seconds)} in all")
    if empty := summary.counts.get("empty", 0):
        advice = "" if empty_fails else ", and with --empty-fails an empty answer is a failure"
        lines.append(
            f"{empty} {_rows(empty)} got no text: look into the server's log; --retry-empty asks again{advice}"
        )
    if summary.failed:
        lines.append(
            f"the same command with --retry-failed gives {summary.failed} failed {_rows(summary.failed)} another try"
        )
    if late := summary.counts.get("timed_out", 0):
        lines.append(
            f"{late} {_rows(late)} timed out: a retry waits for the same turn again, so that nothing is asked twice; "
            "if a turn never ends, give its row a new id"
        )
    return lines


def left_line(summary: Summary) -> str:
    """What to do about rows that are not finished; empty if there are none."""
    left = summary.left
    of = f"{summary.rows} {_rows(summary.rows)} {'is' if left == 1 else 'are'}"
    return f"{left} of {of} left: run the same command again to go on" if left else ""


def _rows(count: int) -> str:
    return "row" if count == 1 else "rows"


class Failures:
    """Rows that did not go well, by their problem: the first of each kind is reported at once, the others counted."""

    def __init__(self, *, empty_fails: bool = False) -> None:
        self._empty_fails = empty_fails
        self._more: dict[str, list[str]] = {}  # by problem: the ids

    def add(self, result: Result) -> str:
        """The line to report now; empty if the row is ok, or its problem was reported already."""
        problem = result.failure(empty_fails=self._empty_fails)
        if not problem:
            return ""
        ids = self._more.setdefault(problem, [])
        ids.append(result.id)
        if len(ids) > 1:
            return ""
        # The first one with its session, to look into.
        return f"row {result.id}: {problem if result.ok or result.unmet else f'{result.status}: {result.error}'}"

    def rest(self) -> list[str]:
        """At the end: how many rows had the same problems."""
        return [
            f"row {ids[0]} and {len(ids) - 1} more (the last is {ids[-1]}): {problem}"
            for problem, ids in self._more.items()
            if len(ids) > 1
        ]
