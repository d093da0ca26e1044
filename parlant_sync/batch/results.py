"""What a batch gives back: a result for each row, and their sum."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

GOOD = ("answered", "empty", "human")
BAD = ("failed", "timed_out", "uncertain")
STATUSES = GOOD + BAD


@dataclass(frozen=True)
class TurnResult:
    """One message of a row and what was said to it.

    ``duration`` in seconds, from the post to the end of the turn; 0.0 where nobody could count it: a run was cut short
    in that turn, and a later one has read the reply.
    """

    message: str
    text: str
    outcome: str
    duration: float

    @staticmethod
    def read(value: Mapping[str, Any]) -> TurnResult:
        return TurnResult(
            str(value["message"]), str(value["text"]), str(value["outcome"]), float(value.get("duration") or 0.0)
        )


@dataclass(frozen=True)
class Result:
    """What became of a row. ``status``: ``answered``, ``empty``, ``human``, ``failed``, ``timed_out``, ``uncertain``.

    ``text`` is the last turn's answer (what there is of it, where that failed), ``turns`` has all of them, ``error``
    says in a line what went wrong. ``started`` is the wall clock's time in UTC, ``duration`` in seconds from there.
    """

    id: str
    status: str
    text: str = ""
    turns: tuple[TurnResult, ...] = ()
    session_id: str | None = None
    error: str | None = None
    started: str = ""
    duration: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the row needs no second try: the conversation went to its end."""
        return self.status in GOOD

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["turns"] = [asdict(turn) for turn in self.turns]
        return value

    @staticmethod
    def read(value: Mapping[str, Any]) -> Result:
        """Raises ValueError, TypeError or KeyError for what is no result of a batch."""
        if not isinstance(value["id"], str) or value["status"] not in STATUSES:
            raise ValueError("no result of a batch")
        return Result(
            id=value["id"],
            status=value["status"],
            text=str(value.get("text") or ""),
            turns=tuple(TurnResult.read(turn) for turn in value.get("turns") or ()),
            session_id=value.get("session_id"),
            error=value.get("error"),
            started=str(value.get("started") or ""),
            duration=float(value.get("duration") or 0.0),
        )


@dataclass(frozen=True)
class Summary:
    """How a batch stands. ``left`` rows were not asked, or not to their end; ``skipped`` were finished by earlier runs.

    The counts by status take the earlier runs in; ``p50`` and ``p95`` are seconds of the turns that were answered and
    whose time was counted, None where there are none; ``seconds`` is the time of this run.
    """

    rows: int
    counts: Mapping[str, int] = field(default_factory=dict)
    skipped: int = 0
    p50: float | None = None
    p95: float | None = None
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        """Rows that ended without an answer: failed, timed out, uncertain."""
        return sum(self.counts.get(status, 0) for status in BAD)

    @property
    def left(self) -> int:
        return self.rows - sum(self.counts.values())

    def to_json(self) -> dict[str, Any]:
        counts = {status: self.counts.get(status, 0) for status in STATUSES}
        times = {"p50": self.p50, "p95": self.p95, "seconds": self.seconds}
        rounded = {name: None if value is None else round(value, 3) for name, value in times.items()}
        return {"rows": self.rows, **counts, "left": self.left, "skipped": self.skipped, **rounded}


class Tally:
    """The sum, kept as results come: a look at it costs the same after a hundred thousand rows as after ten."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._skipped = 0
        self._counts: dict[str, int] = {}
        self._durations: list[float] = []  # of the turns that were answered, sorted

    def add(self, result: Result, *, earlier: bool = False) -> None:
        """A row's result, the one that counts; ``earlier``: of an earlier run."""
        self._skipped += earlier
        self._counts[result.status] = self._counts.get(result.status, 0) + 1
        for turn in result.turns:
            if turn.outcome in GOOD and turn.duration > 0:
                bisect.insort(self._durations, turn.duration)

    def summary(self, seconds: float) -> Summary:
        p50, p95 = (percentile(self._durations, share) for share in (0.5, 0.95))
        return Summary(self._rows, dict(self._counts), self._skipped, p50, p95, seconds)


def percentile(values: list[float], share: float) -> float | None:
    """The smallest of the sorted ``values`` that ``share`` of them do not exceed."""
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else None
