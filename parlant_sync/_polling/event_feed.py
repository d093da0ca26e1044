"""One reader's end of a session's log: its offset, and a queue that the poller fills.

An ``EventFeed`` gives the events of a session in offset order, each once, however they arrive. While it keeps up, they
come through its mailbox. It is *behind* if it joined late, if its mailbox overflowed, or if an exception interrupted
it. The cure is always the same, because the server is the log: it lists from its own offset, gives all of that list,
and continues from the mailbox, dropping the events it already had.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from parlant_sync._api.retry import SHORTEST_PAUSE, pause_after, unread
from parlant_sync._deadline import NEVER, Deadline
from parlant_sync.errors import ParlantSyncError, RateLimitedError, SessionClosed
from parlant_sync.events import Event

if TYPE_CHECKING:
    from parlant_sync._polling.event_hub import EventHub

Lister = Callable[[int], list[Event]]


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


class FeedEnded(Exception):
    """No more events will come; ``cause`` says why."""

    def __init__(self, cause: ParlantSyncError) -> None:
        super().__init__(cause)
        self.cause = cause


class EventFeed:
    """For one thread at a time, except ``leave()``. ``offset`` is the next one wanted."""

    def __init__(
        self,
        hub: EventHub,
        lister: Lister,
        limit: int,
        *,
        offset: int | None = None,
        epoch: int | None = None,
        ask_again: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin at ``offset`` (of the numbering ``epoch``), or if it is None, at what the poller has not yet seen.

        ``lister`` lists the events from an offset. ``ask_again`` aborts a poll that is overdue, so that it is repeated.
        """
        self._hub = hub
        self._lister = lister
        self._ask_again = ask_again
        self._pending: deque[Event] = deque()
        self._mailbox = Mailbox(limit)
        self._left: ParlantSyncError | None = None
        self._floor = 0
        self._epoch = hub.place.epoch if epoch is None else epoch
        place = hub.join(self._mailbox, offset, self._epoch)
        if offset is None:
            offset, self._epoch = place.next, place.epoch
        self.offset = offset

    def leave(self) -> None:
        """Give only what has arrived, and then end. Idempotent; from any thread."""
        if self._left is not None:
            return
        self._left = SessionClosed("this reader was closed; iter_events() continues where it stopped")
        if not self._hub.inherited:
            self._hub.leave(self._mailbox)
            self._mailbox.nudge()

    def skip_to(self, offset: int) -> None:
        """Skip the events below ``offset``."""
        self.offset = max(self.offset, offset)

    def start_at(self, offset: int) -> None:
        """Skip the events below ``offset``, also if the server's numbering goes back."""
        self._floor = offset
        epoch = self._hub.place.epoch
        if epoch == self._epoch:
            self.skip_to(offset)
        else:
            self._epoch = epoch
            self.back_to(offset)

    def get(self, deadline: Deadline) -> Event | None:
        """Return the next event, or None if ``deadline`` passes first.

        Raises ``FeedEnded`` after the last one, and the final errors of a list (401, 403, 404).
        """
        while True:
            while not self._pending:
                if not self._fill(deadline):
                    return None
            event = self.pop()
            if event is not None:
                return event

    def list_now(self, lister: Lister) -> int | None:
        """Ask the server now, with one call of ``lister``; ``pop`` then gives what it holds. Raises what that raises.

        Returns the offset after the last event, or None if the list was empty.
        """
        self._let_go()
        self._catch_up(Deadline(None), lister, attempts=1)
        return self._pending[-1].offset + 1 if self._pending else None

    def back_to(self, offset: int, epoch: int | None = None) -> None:
        """Continue at ``offset`` (of the numbering ``epoch``), also with events that were given before."""
        self.offset = offset
        if epoch is not None:
            self._epoch = epoch
        self._let_go()

    def put_back(self, events: Sequence[Event]) -> None:
        """Give these events again, which were taken last, in this order."""
        if events:
            self.offset = events[0].offset
            self._pending.extendleft(reversed(events))

    def pop(self) -> Event | None:
        """Return the next event if it is here already, else None. Never waits."""
        if self._hub.place.epoch != self._epoch:
            self._pending.clear()  # of an old numbering; this feed is behind
        while self._pending:
            try:
                event = self._pending.popleft()
            except BaseException:
                self._let_go()  # interrupted: the event may be out of the queue and lost
                raise
            if event.offset >= self.offset:
                self.offset = event.offset + 1
                return event
        return None

    @property
    def epoch(self) -> int:
        """Which numbering of the server ``offset`` belongs to."""
        return self._epoch

    def _ending(self) -> ParlantSyncError | None:
        return self._hub.ending or self._left

    def _fill(self, deadline: Deadline) -> bool:
        """Wait for more events. Returns False if the deadline has passed."""
        mailbox = self._mailbox
        # Checked before the wait: what ends the session later also nudges this mailbox.
        ending = self._hub.ending or self._left
        if mailbox.behind:
            if self._hub.ending is not None:
                raise FeedEnded(self._hub.ending)
            # If the reader has left while it was behind, the server still has what had arrived.
            return self._catch_up(deadline, attempts=1 if ending is not None else float("inf"))
        overdue = self._hub.overdue
        until = deadline if overdue is NEVER else Deadline.earliest(deadline, overdue)
        try:
            self._pending.extend(mailbox.take(until.bound() if ending is None else 0))
        except queue.Empty:
            if self._mailbox.behind:
                return True
            if ending is not None:
                raise FeedEnded(ending) from None
            if self._hub.take_overdue():
                self._ask_again()
            return not deadline.expired()
        except BaseException:
            self._let_go()  # interrupted: a batch may be out of the mailbox and lost
            raise
        return True

    def _catch_up(self, deadline: Deadline, lister: Lister | None = None, *, attempts: float = float("inf")) -> bool:
        lister = lister or self._lister
        attempt = 0
        while True:
            # First, so that events delivered from now on come through the mailbox.
            self._mailbox.catch_up()
            place = self._hub.place
            if place.epoch != self._epoch:
                self.offset = max(min(self.offset, self._hub.lowest_base(self._epoch)), self._floor)
                self._epoch = place.epoch
            try:
                self._pending = deque(lister(self.offset))
                return True
            except BaseException as error:
                self._mailbox.let_go()
                ending = self._ending()
                if isinstance(error, SessionClosed):
                    raise FeedEnded(ending or error) from error
                if not unread(error):
                    raise
                if ending is not None:
                    raise FeedEnded(ending) from error
                attempt += 1
                if attempt >= attempts:
                    raise
                pause = pause_after(error, attempt)
                # A 429 is obeyed to its end, also if a poll succeeds meanwhile.
                least = pause if isinstance(error, RateLimitedError) and error.retry_after else SHORTEST_PAUSE
            self._pause(Deadline(deadline.bound(pause)), Deadline(least))
            ending = self._ending()
            if ending is not None:
                raise FeedEnded(ending)
            if deadline.expired():
                return False

    def _pause(self, until: Deadline, least: Deadline) -> None:
        """Wait after a list that failed. Ends early if the session ends, or if a poll succeeds meanwhile."""
        answers = self._hub.answers
        while self._ending() is None and not until.expired():
            answered = self._hub.answers != answers
            if answered and least.expired():
                return
            try:
                # A reader that is behind gets no events: a nudge says that there is something to look at.
                self._mailbox.take(until.bound(least.bound(None) if answered else None))
            except queue.Empty:
                continue

    def _let_go(self) -> None:
        self._pending.clear()
        self._mailbox.let_go()
