"""The ledger of a soak: what calls and readers got, against what the server holds."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict

_LATE = 2.0  # seconds that a busy machine may take beyond a limit


class Ledger:
    """Thread-safe. ``findings``, by kind: events ``missed``; events given and messages stored twice (``doubled``);

    replies and lists that are ``wrong``; outcomes that the server's list contradicts (``false``); calls that took
    longer than their documented limit (``late``).
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.findings: dict[str, list[str]] = {kind: [] for kind in ("missed", "doubled", "wrong", "false", "late")}
        self.posted: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
        self._events = self._judged = 0
        self._lock = threading.Lock()  # guards all of these

    def note(self, session_id: str, text: str, outcome: str, evidence: str = "") -> None:
        """What came of a text, kept until its session is judged. ``evidence``: of a turn without a reply."""
        with self._lock:
            self.outcomes[outcome] += 1
            self.posted[session_id][_number(text)] = outcome, evidence

    def given(self) -> None:
        """An event, to a reader."""
        with self._lock:
            self._events += 1

    def took(self, what: str, seconds: float, limit: float) -> None:
        if seconds > limit + _LATE:
            self.found("late", f"{what}: {seconds:.1f} s, its limit is {limit:g} s")

    def found(self, kind: str, what: str) -> None:
        with self._lock:
            self.findings[kind].append(what)

    def judge(self, session_id: str, stored: list[str]) -> None:
        """At the end of a session: what came of its texts, against the customer's messages that the server holds."""
        with self._lock:
            self._judged += 1
            posted = self.posted.pop(session_id, {})
        for text, count in Counter(stored).items():
            if count > 1:
                self.found("doubled", f"{session_id}: {count} copies of {text!r}")
        numbers = {_number(text) for text in stored}
        for number, (outcome, why) in posted.items():
            claimed = outcome in ("reply", "timeout")
            if outcome != "uncertain" and claimed is not (number in numbers):
                self.found("false", f"{session_id}: {number}: {outcome}, but stored is {not claimed}: {why}")

    def line(self) -> str:
        with self._lock:
            counts = "  ".join(f"{kind} {len(found)}" for kind, found in self.findings.items())
            return f"turns {self.outcomes['reply']}  events {self._events}  {counts}"

    def summary(self) -> str:
        return (
            f"outcomes: {dict(self.outcomes.most_common())}; {self._events} events given out; {self._judged} sessions"
        )


def _number(text: str) -> str:
    """What tells a text from all others: the rest is padding."""
    return text.rsplit("-", 1)[0]
