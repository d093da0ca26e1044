"""A row on its way through a batch: what of it was written down, posted, answered."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone

from parlant_sync import Event
from parlant_sync.batch.journal import Entry
from parlant_sync.batch.results import GOOD, Result, TurnResult
from parlant_sync.batch.rows import Row
from parlant_sync.batch.worker import Answer


@dataclass
class Item:
    """One row that is not finished. Only the batch's own thread touches it.

    ``at`` is the wall clock's time of the journal's entry for the message that may be under way (0.0: none is), or a
    later one at which it may still have been posted; ``event`` is that message, once it is known to be there.
    ``found``: by looking for it, so that nobody has counted the time from its post on.
    """

    row: Row
    timeout: float
    started: str = ""
    session: str | None = None
    key: str = ""
    at: float = 0.0
    event: Event | None = None
    found: bool = False
    turns: list[TurnResult] = field(default_factory=list)
    reposts: int = 0
    resumed: bool = False
    begun: float | None = None  # monotonic: when this run first handed it out
    deadline: float | None = None  # monotonic
    trouble_since: float | None = None  # monotonic: since when the server cannot be reached for it

    @staticmethod
    def resume(row: Row, timeout: float, entry: Entry) -> Item:
        # A post can be much later than its entry: while a 429 is waited out, say, for as long as the row had time.
        # The process that could post it ended before this one got the lock.
        at = min(time.time(), entry.at + timeout)
        item = Item(row, timeout, entry.started, entry.session, entry.key, at, resumed=True)
        item.turns = list(entry.turns)
        return item

    @property
    def turn(self) -> int:
        return len(self.turns)

    @property
    def message(self) -> str:
        return self.row.messages[self.turn]

    @property
    def own(self) -> bool:
        """Whether its session was made for it."""
        return self.row.session_id is None

    @property
    def last_turn(self) -> bool:
        return self.turn + 1 == len(self.row.messages)

    def look_again(self) -> None:
        """A post whose fate is not known has ended just now; the row has its time anew."""
        self.reposts += 1
        self.at, self.deadline = time.time(), None

    def begin_again(self) -> None:
        """Its session is gone from the server, and all that was said in it: the same attempt in a new session."""
        self.session, self.key, self.at, self.event, self.found, self.turns = None, "", 0.0, None, False, []

    def entry(self) -> Entry:
        """For the journal, now: its message may be posted when this is on the disk. The same key if it is repeated."""
        assert self.session is not None
        self.started = self.started or datetime.now(timezone.utc).isoformat()
        self.key = self.key or uuid.uuid4().hex
        self.at = time.time()
        return Entry(
            self.row.id, self.started, self.session, self.turn, self.key, self.at, self.row.digest, tuple(self.turns)
        )

    def settle_left(self, settle: float) -> float:
        """Seconds until a message that the server does not list may be taken for lost."""
        # A clock that was set back must not shorten it.
        return settle - max(0.0, time.time() - self.at)

    def time_left(self) -> float:
        """Of the row's own time, which begins when it is first handed out."""
        now = time.monotonic()
        if self.begun is None:
            self.begun = now
        if self.deadline is None:
            self.deadline = now + self.timeout
        return max(0.0, self.deadline - now)

    def take(self, answer: Answer) -> Result | None:
        """The end of a turn; the row's result where that was its last or went wrong."""
        duration = 0.0 if self.found else round(answer.duration, 6)
        self.turns.append(TurnResult(self.message, answer.text, answer.status, duration))
        self.key, self.at, self.event, self.found, self.reposts, self.trouble_since = "", 0.0, None, False, 0, None
        if answer.status in GOOD and len(self.turns) < len(self.row.messages):
            return None
        return self.result(answer.status, answer.text, answer.error)

    def result(self, status: str, text: str = "", error: str | None = None) -> Result:
        started = self.started or datetime.now(timezone.utc).isoformat()
        duration = time.monotonic() - self.begun if self.begun is not None else 0.0
        if self.resumed:
            # From the attempt's true beginning, in the process that is no more.
            duration = max(0.0, time.time() - datetime.fromisoformat(started).timestamp())
        return Result(self.row.id, status, text, tuple(self.turns), self.session, error, started, round(duration, 6))
