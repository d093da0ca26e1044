"""A row on its way through a batch, and the queues in which rows wait."""

from __future__ import annotations

import heapq
import itertools
import time
import uuid
from collections import deque
from collections.abc import Iterable
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
    ``again``: an earlier run has a result without an answer, so a turn that is over without one is asked once more.
    """

    row: Row
    timeout: float
    started: str = ""
    session: str | None = None
    key: str = ""
    at: float = 0.0
    event: Event | None = None
    turns: list[TurnResult] = field(default_factory=list)
    tries: int = 0  # of the current message: posts, and requests that were refused while others went well
    writes_seen: int = -1
    again: bool = False
    resumed: bool = False
    begun: float | None = None  # monotonic: when this run first posted it
    deadline: float | None = None  # monotonic

    @staticmethod
    def resume(row: Row, timeout: float, entry: Entry, *, again: bool = False) -> Item:
        # A post can be much later than its entry: while a 429 is waited out, say, for as long as the row had time.
        # The process that could post it ended before this one got the lock.
        at = min(time.time(), entry.at + timeout)
        item = Item(row, timeout, entry.started, entry.session, entry.key, at, again=again, resumed=True)
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
        """A post whose fate is not known has ended just now; the row gets its time anew."""
        self.at, self.deadline = time.time(), None

    def begin_again(self, *, attempt: bool = False) -> None:
        """Forget its session: the same attempt in a new one, or (``attempt``) a new attempt."""
        self.session, self.key, self.at, self.event, self.turns, self.deadline = None, "", 0.0, None, [], None
        if attempt:
            self.started, self.again, self.resumed, self.begun, self.tries = "", False, False, None, 0

    def entry(self, agent_id: str | None) -> Entry:
        """For the journal: its message may be posted when this is on the disk. The same key if it is repeated."""
        assert self.session is not None
        self.started = self.started or datetime.now(timezone.utc).isoformat()
        self.key = self.key or uuid.uuid4().hex
        self.at = time.time()
        return Entry(
            row=self.row.id,
            started=self.started,
            session=self.session,
            turn=self.turn,
            key=self.key,
            at=self.at,
            digest=self.row.digest,
            agent=(self.row.agent_id or agent_id) if self.own else None,
            turns=tuple(self.turns),
        )

    def settle_left(self, settle: float) -> float:
        """Seconds until a message that the server does not list may be taken for lost."""
        # A clock that was set back must not shorten it.
        return settle - max(0.0, time.time() - self.at)

    def time_left(self) -> float:
        """Of the row's own time, which begins with its first post in this run."""
        now = time.monotonic()
        if self.begun is None:
            self.begun = now
        if self.deadline is None:
            self.deadline = now + self.timeout
        return max(0.0, self.deadline - now)

    def take(self, answer: Answer) -> Result | None:
        """The end of a turn; the row's result if that was its last, or went wrong."""
        self.turns.append(answer.turn or TurnResult(self.message, "", answer.status, 0.0))
        self.key, self.at, self.event, self.tries = "", 0.0, None, 0
        if answer.status in GOOD and len(self.turns) < len(self.row.messages):
            return None
        return self.result(answer.status, self.turns[-1].text, answer.error)

    def result(self, status: str, text: str = "", error: str | None = None) -> Result:
        started = self.started or datetime.now(timezone.utc).isoformat()
        duration = time.monotonic() - self.begun if self.begun is not None else 0.0
        if self.resumed:
            # From the attempt's true beginning, in a process that has ended.
            duration = max(0.0, time.time() - datetime.fromisoformat(started).timestamp())
        turns = tuple(self.turns)
        return Result(
            id=self.row.id,
            status=status,
            text=text,
            turns=turns,
            session_id=self.session,
            error=error,
            started=started,
            duration=round(duration, 6),
            unmet=self.row.expect.unmet(status, text, turns) if status in GOOD else (),
            columns=self.row.columns,
        )


class Queues:
    """Where rows wait: to be opened, for a moment to come, for their session, to be asked. For one thread."""

    def __init__(self, items: Iterable[Item]) -> None:
        self.waiting: deque[Item] = deque()  # to be opened, or looked for
        self.ready: deque[Item] = deque()  # to be written down and asked
        self._later: list[tuple[float, int, Item]] = []  # a heap: to be looked for at that monotonic time
        self._chains: dict[str, deque[Item]] = {}  # by given session: the rows behind the one that is under way
        self._serial = itertools.count()
        self.left = 0
        for item in items:
            self.left += 1
            session = item.row.session_id
            if session is not None and session in self._chains:
                self._chains[session].append(item)
            else:
                self.waiting.append(item)
                if session is not None:
                    self._chains[session] = deque()

    def finished(self, item: Item) -> None:
        """The next row of the same given session may go."""
        self.left -= 1
        session = item.row.session_id
        if session is not None and self._chains[session]:
            self.waiting.appendleft(self._chains[session].popleft())

    def delay(self, item: Item, seconds: float) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._serial), item))

    def wake(self) -> None:
        """Rows whose time has come are waiting."""
        while self._later and self._later[0][0] <= time.monotonic():
            self.waiting.appendleft(heapq.heappop(self._later)[2])

    def next_wake(self) -> float | None:
        """Seconds until then; None if no row is delayed."""
        return self._later[0][0] - time.monotonic() if self._later else None

    @property
    def delayed(self) -> int:
        return len(self._later)
