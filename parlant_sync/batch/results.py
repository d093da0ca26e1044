"""What a batch gives back: a result for each row, and their sum."""

from __future__ import annotations

import bisect
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

GOOD = ("answered", "empty", "human")
BAD = ("failed", "timed_out", "uncertain")
STATUSES = GOOD + BAD
# What is wrong with an empty row, if that counts as a failure.
EMPTY = "empty: the turn ended without a message"


@dataclass(frozen=True)
class TurnResult:
    """One message of a row and the turn that answered it.

    ``duration``: seconds from the message to the turn's last event, by the server's clock. ``tool_calls``, the ids in
    ``matched_...`` and the message's ``flagged`` and ``moderation_tags`` are as the server reported them.
    """

    message: str
    text: str
    outcome: str
    duration: float
    tool_calls: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)
    matched_guidelines: tuple[str, ...] = ()
    matched_journeys: tuple[str, ...] = ()
    matched_journey_states: tuple[str, ...] = ()
    flagged: bool = False
    moderation_tags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return _with_lists(self)

    @staticmethod
    def read(value: Mapping[str, Any]) -> TurnResult:
        """Raises KeyError, TypeError, ValueError for anything else."""
        return TurnResult(
            message=str(value["message"]),
            text=str(value["text"]),
            outcome=str(value["outcome"]),
            duration=float(value.get("duration") or 0.0),
            tool_calls=tuple(call for call in value.get("tool_calls") or () if isinstance(call, dict)),
            matched_guidelines=_texts(value.get("matched_guidelines")),
            matched_journeys=_texts(value.get("matched_journeys")),
            matched_journey_states=_texts(value.get("matched_journey_states")),
            flagged=bool(value.get("flagged")),
            moderation_tags=_texts(value.get("moderation_tags")),
        )


@dataclass(frozen=True)
class Result:
    """What became of a row. ``status``: ``answered``, ``empty``, ``human``, ``failed``, ``timed_out``, ``uncertain``.

    ``text`` is the last turn's answer (or the part of it that came before a failure), ``turns`` has all turns,
    ``error`` says in one line what went wrong. ``unmet`` lists the row's expectations that its answer did not meet.
    ``columns`` are the row's fields that a batch does not use. ``started`` is the time of the first post (UTC),
    ``duration`` the seconds from there.
    """

    id: str
    status: str
    text: str = ""
    turns: tuple[TurnResult, ...] = ()
    session_id: str | None = None
    error: str | None = None
    started: str = ""
    duration: float = 0.0
    unmet: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def ok(self) -> bool:
        """Whether the row needs no second try: it was answered, and as expected."""
        return self.status in GOOD and not self.unmet

    @property
    def problem(self) -> str:
        """What went wrong, in one line; empty for a row that is ok. The same for rows with the same problem."""
        if self.unmet:
            return f"not as expected: {'; '.join(self.unmet)}"
        if self.status in GOOD:
            return ""
        said = self.error or ""
        for name in filter(None, (self.session_id, self.id)):
            said = re.sub(rf"\bsession {re.escape(name)}\b", "its session", said)
        return f"{self.status.replace('_', ' ')}: {_KEYS.sub('KEY', said)}".removesuffix(": ")

    def failure(self, *, empty_fails: bool) -> str:
        """``problem``; with ``empty_fails`` also that of a row that is empty."""
        return self.problem or (EMPTY if empty_fails and self.status == "empty" else "")

    @property
    def seconds(self) -> float:
        """The time of its turns, without outages and pauses between them."""
        return round(sum(turn.duration for turn in self.turns), 3)

    def to_json(self) -> dict[str, Any]:
        return {**_with_lists(self), "turns": [turn.to_json() for turn in self.turns]}

    @staticmethod
    def read(value: Mapping[str, Any]) -> Result:
        """Raises ValueError, TypeError or KeyError for what is not a result of a batch."""
        if not isinstance(value["id"], str) or value["status"] not in STATUSES:
            raise ValueError("not a result of a batch")
        columns = value.get("columns")
        return Result(
            id=value["id"],
            status=value["status"],
            text=str(value.get("text") or ""),
            turns=tuple(TurnResult.read(turn) for turn in value.get("turns") or ()),
            session_id=value.get("session_id"),
            error=value.get("error"),
            started=str(value.get("started") or ""),
            duration=float(value.get("duration") or 0.0),
            unmet=_texts(value.get("unmet")),
            columns=columns if isinstance(columns, dict) else {},
        )


# A key in an error's text makes equal failures look different.
_KEYS = re.compile(r"\b[0-9a-f]{32}\b")


def _with_lists(value: TurnResult | Result) -> dict[str, Any]:
    """Its fields, with lists as in JSON in place of tuples. Not ``asdict()``: that copies all that tools have given."""
    return {name: list(each) if isinstance(each, tuple) else each for name, each in vars(value).items()}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(each) for each in value) if isinstance(value, (list, tuple)) else ()


@dataclass(frozen=True)
class Summary:
    """How a batch stands. ``left`` rows were not asked, or not to their end; ``skipped`` were finished by earlier runs.

    ``counts`` (by status) include the earlier runs, and so does ``unmet``: rows with an answer that is not as expected.
    ``p50`` and ``p95`` are seconds of the turns that were answered, None if there are none; ``seconds`` is the time of
    this run.
    """

    rows: int
    counts: Mapping[str, int] = field(default_factory=dict)
    skipped: int = 0
    p50: float | None = None
    p95: float | None = None
    seconds: float = 0.0
    unmet: int = 0

    @property
    def failed(self) -> int:
        """Rows that are not ok: failed, timed out, uncertain, or not answered as expected."""
        return sum(self.counts.get(status, 0) for status in BAD) + self.unmet

    @property
    def left(self) -> int:
        return self.rows - sum(self.counts.values())

    def to_json(self) -> dict[str, Any]:
        counts = {status: self.counts.get(status, 0) for status in STATUSES}
        times = {"p50": self.p50, "p95": self.p95, "seconds": self.seconds}
        rounded = {name: None if value is None else round(value, 3) for name, value in times.items()}
        return {
            "rows": self.rows,
            **counts,
            "not_as_expected": self.unmet,
            "left": self.left,
            "skipped": self.skipped,
            **rounded,
        }


class Tally:
    """The sum, kept up to date as results come: a look costs the same after 100,000 rows as after ten."""

    def __init__(self, rows: int, results: Iterable[Result] = ()) -> None:
        """``results`` are those of earlier runs."""
        self._rows = rows
        self._skipped = 0
        self._unmet = 0
        self._counts: Counter[str] = Counter()
        self._durations: list[float] = []  # of the turns that were answered, sorted
        for result in results:
            self.add(result)
            self._skipped += 1

    def add(self, result: Result) -> None:
        self._counts[result.status] += 1
        self._unmet += bool(result.unmet)
        for turn in result.turns:
            if turn.outcome in GOOD and turn.duration > 0:
                bisect.insort(self._durations, turn.duration)

    def summary(self, seconds: float) -> Summary:
        p50, p95 = (percentile(self._durations, share) for share in (0.5, 0.95))
        return Summary(self._rows, dict(self._counts), self._skipped, p50, p95, seconds, self._unmet)


def percentile(values: list[float], share: float) -> float | None:
    """The smallest of the sorted ``values`` that ``share`` of them do not exceed."""
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else None
