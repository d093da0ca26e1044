"""Where the rows of a batch wait: to be opened, for a moment to come, for their session, to be asked."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Iterable

from parlant_sync.batch.items import Item


class Queues:
    """For the batch's own thread alone."""

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
        """It is through: the next row of the same given session may go."""
        self.left -= 1
        session = item.row.session_id
        if session is not None and self._chains[session]:
            self.waiting.appendleft(self._chains[session].popleft())

    def delay(self, item: Item, seconds: float) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._serial), item))

    def wake(self) -> None:
        """Those whose time has come are waiting."""
        while self._later and self._later[0][0] <= time.monotonic():
            self.waiting.appendleft(heapq.heappop(self._later)[2])

    def next_wake(self) -> float | None:
        """Seconds until then; None where nobody is delayed."""
        return self._later[0][0] - time.monotonic() if self._later else None
