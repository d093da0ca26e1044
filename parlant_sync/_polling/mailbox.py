"""One reader's bounded queue of event batches. A reader that is too slow lets go of them and is *behind*.

Behind is one state for many causes: joining late, an overflow, an interrupted wait. Its cure is always the same: list
again from the reader's own offset, for the server is the log.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from parlant_sync.events import Event


class Mailbox:
    """Filled by the poller, emptied by one reader. Thread-safe; the poller never waits for the reader."""

    def __init__(self, limit: int) -> None:
        # A SimpleQueue, for an exception raised by a signal handler can strike inside of a Queue, and leave its lock
        # taken for ever. An item of None holds nothing: it only makes the reader look up.
        self._queue: queue.SimpleQueue[Sequence[Event] | None] = queue.SimpleQueue()
        self._lock = threading.RLock()  # guards all below; held inside the hub's lock
        self._limit = limit
        self._waiting = 0
        self._behind = True
        self._overflowed = False

    def is_behind(self) -> bool:
        """Whether events were let go that only the server still has. Another thread may change that at any time."""
        return self._behind

    @property
    def waiting(self) -> int:
        """How many events wait for the reader."""
        return self._waiting

    @property
    def pressure(self) -> float:
        """How full it is: 1.0 is the limit, and stays so from an overflow until the reader has caught up."""
        return 1.0 if self._overflowed else self._waiting / self._limit

    def offer(self, batch: Sequence[Event]) -> None:
        """From the poller. A reader that is behind gets nothing: its next list will have these events."""
        with self._lock:
            if self._behind:
                return
            # A batch for an idle reader is taken whatever its length: it is in memory already.
            if self._waiting and self._waiting + len(batch) > self._limit:
                self._empty()
                self._behind = self._overflowed = True
                self._queue.put(None)
            else:
                self._waiting += len(batch)
                self._queue.put(batch)

    def take(self, timeout: float | None) -> Sequence[Event]:
        """The next batch; empty when there is something else to look at. Raises ``queue.Empty`` after ``timeout``."""
        batch = self._queue.get(timeout=timeout) if timeout is None or timeout > 0 else self._queue.get_nowait()
        if batch is None:
            return ()
        with self._lock:
            self._waiting -= len(batch)
        return batch

    def let_go(self) -> None:
        """Forget what waits, and be behind."""
        with self._lock:
            self._empty()
            self._behind = True
            self._queue.put(None)

    def catch_up(self) -> None:
        """The reader is about to list from its own offset: from now on it wants to be told again."""
        with self._lock:
            self._empty()
            self._behind = self._overflowed = False

    def nudge(self) -> None:
        """Make the reader look up."""
        self._queue.put(None)

    def _empty(self) -> None:
        """The lock is held."""
        self._waiting = 0
        try:
            while True:
                self._queue.get_nowait()
        except queue.Empty:
            pass
