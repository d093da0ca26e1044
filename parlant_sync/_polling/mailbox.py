"""One reader's queue of event batches, bounded by the number of events. A reader that is too slow is *behind*.

A reader is behind if it joined late, if its mailbox overflowed, or if an exception interrupted it. The cure is always
the same: list again from the reader's own offset, because the server is the log.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from parlant_sync.events import Event


def _repaired(step: Callable[[Mailbox], None]) -> Callable[[Mailbox], None]:
    """Let an interrupted ``step`` leave the mailbox usable, and its reader behind."""

    @functools.wraps(step)
    def repaired(box: Mailbox) -> None:
        try:
            step(box)
        except BaseException:
            box._repair()
            raise

    return repaired


class Mailbox(queue.Queue[Sequence[Event]]):
    """Filled by the poller, emptied by one reader at a time. Thread-safe; the poller never waits for the reader.

    A signal handler may raise anywhere inside ``Queue.get``, also between taking the lock and the ``try`` that frees
    it. An RLock knows its owner, so ``take`` can free what the interrupted call left taken. A plain Queue would hang
    the poller, and with it every reader of the session.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.mutex: Any = threading.RLock()  # guards the queue and all below; held inside the hub's lock
        self._new_conditions()
        self._look_up = False  # wakes the reader without an event
        # Whether events were let go that only the server still has. Another thread may change that at any time.
        self.behind = True
        self._overflowed = False

    def _new_conditions(self) -> None:
        # One for all: only the reader ever waits, and only for ``not_empty``. Each has a queue of its own, over 1 KiB.
        self.not_empty = self.not_full = self.all_tasks_done = threading.Condition(self.mutex)

    # -- what queue.Queue calls, with the mutex held

    def _init(self, maxsize: int) -> None:
        super()._init(maxsize)
        self._events = 0

    def _qsize(self) -> int:
        """How many events wait. An empty queue with a note to look up counts as one, so that ``get`` returns."""
        return self._events if self.queue else int(self._look_up)

    def _put(self, item: Sequence[Event]) -> None:
        self._events = len(item) + (self._events if self.queue else 0)
        self.queue.append(item)

    def _get(self) -> Sequence[Event]:
        if not self.queue:
            self._look_up = False
            return ()
        batch: Sequence[Event] = self.queue.popleft()
        self._events -= len(batch)
        return batch

    # -- for the poller

    def offer(self, batch: Sequence[Event]) -> None:
        """Add a batch. If that would be too many events, drop all of them: the reader is then behind.

        A reader that is behind gets no events, only a nudge.
        """
        with self.mutex:
            if self.behind:
                self.nudge()
                return
            if not batch:
                return
            waiting = self.waiting
            # A reader with an empty mailbox gets a batch of any length: it is in memory already.
            if waiting and waiting + len(batch) > self.maxsize:
                self._overflowed = True
                self._empty()
            else:
                self.put_nowait(batch)

    @property
    def waiting(self) -> int:
        """How many events wait for the reader."""
        return self._events if self.queue else 0

    @property
    def pressure(self) -> float:
        """How full it is: 1.0 is the limit. Stays 1.0 from an overflow until the reader has caught up."""
        return 1.0 if self._overflowed else self.waiting / self.maxsize

    # -- for the reader

    def take(self, timeout: float | None) -> Sequence[Event]:
        """Return the next batch; an empty one means that there is something else to look at.

        Raises ``queue.Empty`` after ``timeout`` seconds (None waits without limit). After any other exception the
        reader is behind.
        """
        try:
            return self.get(timeout is None or timeout > 0, timeout)
        except queue.Empty:
            raise
        except BaseException as error:
            self._repair()
            if isinstance(error, RuntimeError) and error.__context__ is not None:
                # The interrupt freed the lock, and leaving the ``with`` then complained about that.
                raise error.__context__ from None
            raise

    @_repaired
    def let_go(self) -> None:
        """Drop all waiting events. The reader is then behind."""
        with self.mutex:
            self._empty()

    @_repaired
    def catch_up(self) -> None:
        """Clear the mailbox, and accept events again. The reader lists from its own offset next."""
        with self.mutex:
            self.queue.clear()
            self._look_up = self.behind = self._overflowed = False

    @_repaired
    def nudge(self) -> None:
        """Make the reader look up. From any thread."""
        with self.mutex:
            self._look_up = True
            self.not_empty.notify()

    def _empty(self) -> None:
        """The mutex is held."""
        self.behind = True
        self.queue.clear()
        self._look_up = True
        self.not_empty.notify_all()

    def _repair(self) -> None:
        """After an exception in the middle of a call: free what this thread still owns, and be behind."""
        while self.mutex._is_owned():
            self.mutex.release()
        with self.mutex:
            self._empty()
            # The old condition may still list the interrupted wait, which would swallow the next wake-up.
            self._new_conditions()
