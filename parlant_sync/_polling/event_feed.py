"""One reader's end of a session's log: its offset, and a queue that the poller fills.

An ``EventFeed`` gives the events of a session in offset order, each once, however they arrive. While it keeps up, they
come through its mailbox. It is *behind* if it joined late, if its mailbox overflowed, or if an exception interrupted
it. The cure is always the same, because the server is the log: it lists from its own offset, gives all of that list,
and continues from the mailbox, dropping the events it already had.
"""

from __future__ import annotations

import importlib.util
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from parlant_sync._api.retry import SHORTEST_PAUSE, pause_after, unread
from parlant_sync._deadline import NEVER, Deadline
from parlant_sync.errors import ParlantSyncError, RateLimitedError, SessionClosed
from parlant_sync.events import Event

if TYPE_CHECKING:
    from parlant_sync._polling.event_hub import EventHub

Lister = Callable[[int], list[Event]]

# Seconds. A waiting reader looks up so often. What a signal handler does in the reader's own thread (it may close the
# session) wakes it only if it waits already, not if it is just about to.
_LOOK = 1.0


def _standard_queue() -> Any:
    """The ``queue.Queue`` of the standard library. gevent and eventlet put another one in its place."""
    if queue.Queue.__module__ == "queue":
        return queue.Queue
    spec = sys.modules["queue"].__spec__
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Queue


if TYPE_CHECKING:
    _Queue = queue.Queue
else:
    _Queue = _standard_queue()


class Mailbox(_Queue[Sequence[Event]]):
    """The batches of events that wait for one reader; bounded by the number of events, which ``waiting`` is.

    Filled by the poller, emptied by one reader at a time. Thread-safe; the poller never waits for the reader.

    A signal handler may raise anywhere inside ``Queue.get``, also between taking the lock and the ``try`` that frees
    it. An RLock knows its owner, so the interrupted call can free what it left taken, and the reader is behind. A
    plain Queue would hang the poller, and with it every reader of the session.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.mutex: Any = threading.RLock()  # guards the queue and all below; held inside the hub's lock
        # One for all: only the reader ever waits, and only for ``not_empty``. Each has a queue of its own, over 1 KiB.
        self.not_empty = self.not_full = self.all_tasks_done = threading.Condition(self.mutex)
        self._look_up = False  # wakes the reader without an event
        self._overflowed = False
        # Whether events were let go that only the server still has. Set by any thread at any time; only ``catch_up()``
        # takes it back.
        self.behind = True

    # -- what queue.Queue calls, with the mutex held

    def _init(self, maxsize: int) -> None:
        self.queue: Any = []  # an empty deque takes 0.75 KiB, in each idle session
        self.waiting = 0

    def _qsize(self) -> int:
        """How many events wait. An empty queue with a note to look up counts as one, so that ``get`` returns."""
        return self.waiting or int(self._look_up)

    def _put(self, item: Sequence[Event]) -> None:
        self.queue.append(item)
        self.waiting += len(item)

    def _get(self) -> Sequence[Event]:
        if not self.queue:
            self._look_up = False
            return ()
        batch: Sequence[Event] = self.queue.pop(0)
        self.waiting -= len(batch)
        return batch

    # -- for the poller

    def offer(self, batch: Sequence[Event]) -> None:
        """Add a batch. If that would be too many events, drop all of them: the reader is then behind.

        A reader that is behind gets no events, only a nudge.
        """
        with self.mutex:
            # A reader with an empty mailbox gets a batch of any length: it is in memory already.
            if batch and self.waiting and self.waiting + len(batch) > self.maxsize:
                self._overflowed = True
                self._drop()
            if self.behind:
                self._look_up = True
            elif batch:
                self._put(batch)
            self.not_empty.notify()

    @property
    def pressure(self) -> float:
        """How full it is: 1.0 is the limit. Stays 1.0 from an overflow until the reader has caught up."""
        return 1.0 if self._overflowed else self.waiting / self.maxsize

    def let_go(self) -> None:
        """Have the reader look up, and be behind."""
        self.behind = True
        self.nudge()

    # -- for any thread

    def nudge(self) -> None:
        """Make the reader look up."""
        try:
            with self.mutex:
                self._look_up = True
                self.not_empty.notify()
        except BaseException:
            self._repair()
            raise

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

    def catch_up(self) -> None:
        """Clear the mailbox, and accept events again. The reader lists from its own offset next."""
        with self.mutex:
            self._drop()
            self._look_up = self.behind = self._overflowed = False

    def _drop(self) -> None:
        """The mutex is held."""
        self.behind = True
        self.queue.clear()
        self.waiting = 0

    def _repair(self) -> None:
        """After an exception in the middle of a call: free what this thread still owns, and be behind."""
        while self.mutex._is_owned():
            self.mutex.release()
        with self.mutex:
            self._drop()
            self._look_up = True
            self.not_empty.notify_all()  # also the interrupted wait, which would swallow the next wake-up


class FeedEnded(Exception):
    """No more events will come; ``cause`` says why."""

    def __init__(self, cause: ParlantSyncError) -> None:
        super().__init__(cause)
        self.cause = cause


class EventFeed:
    """For one thread at a time, except ``leave()``. ``offset`` is the next one wanted, in the numbering ``epoch``.

    If any other exception than those named below leaves a call, it is one of a signal handler, and an event may be
    lost: ``back_to()`` gives it again.
    """

    __slots__ = ("_ask_again", "_floor", "_hub", "_left", "_lister", "_mailbox", "_pending", "epoch", "offset")

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
        self._pending: list[Event] = []  # the next one is the last
        self._mailbox = Mailbox(limit)
        self._left = False
        self._floor = 0
        place = hub.join(self._mailbox, offset, epoch)
        self.offset = place.next if offset is None else offset
        self.epoch = place.epoch if offset is None or epoch is None else epoch

    def leave(self) -> None:
        """Give only what has arrived, and then end. Idempotent; from any thread."""
        if not self._left:
            self._left = True
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
        if epoch == self.epoch:
            self.skip_to(offset)
        else:
            self.back_to(offset, epoch)

    def back_to(self, offset: int, epoch: int | None = None) -> None:
        """Continue at ``offset`` (of the numbering ``epoch``), also with events that were given before."""
        self.offset = offset
        if epoch is not None:
            self.epoch = epoch
        self._mailbox.behind = True
        self._pending.clear()

    def put_back(self, events: Sequence[Event]) -> None:
        """Give these events again, which were taken last, in this order."""
        if events:
            self.offset = events[0].offset
            self._pending.extend(reversed(events))

    def get(self, deadline: Deadline) -> Event | None:
        """Return the next event, or None if ``deadline`` passes first.

        Raises ``FeedEnded`` after the last one, and the final errors of a list (401, 403, 404).
        """
        while True:
            if self._pending:
                event = self.pop()
                if event is not None:
                    return event
            elif not self._fill(deadline):
                return None

    def pop(self) -> Event | None:
        """Return the next event if it is here already, else None. Never waits."""
        if self._hub.place.epoch != self.epoch:
            self._pending.clear()  # of an old numbering; this feed is behind
        while self._pending:
            event = self._pending.pop()
            if event.offset >= self.offset:
                self.offset = event.offset + 1
                return event
        return None

    def list_now(self, lister: Lister) -> int | None:
        """Ask the server now, with one call of ``lister``; ``pop`` then gives what it holds. Raises what that raises.

        Returns the offset after the last event, or None if the list was empty.
        """
        self._list(lister)
        return self._pending[0].offset + 1 if self._pending else None

    def _over(self) -> bool:
        return self._left or self._hub.ending is not None

    def _ended(self) -> FeedEnded:
        left = "this reader was closed; iter_events() continues where it stopped"
        return FeedEnded(self._hub.ending or SessionClosed(left))

    def _fill(self, deadline: Deadline) -> bool:
        """Wait for more events. Returns False if the deadline has passed."""
        mailbox, hub = self._mailbox, self._hub
        # Looked at before the wait: what ends the session later also nudges this mailbox.
        over = self._left or hub.ending is not None
        if mailbox.behind:
            if hub.ending is not None:
                raise self._ended()
            return self._catch_up(deadline)  # also if the reader has left: the server still has what had arrived
        until = deadline if hub.overdue is NEVER else Deadline.earliest(deadline, hub.overdue)
        try:
            batch = mailbox.take(0 if over else until.bound(_LOOK))
        except queue.Empty:
            if self._mailbox.behind:
                return True
            if over:
                raise self._ended() from None
            if hub.take_overdue():
                self._ask_again()
            return not deadline.expired()
        self._pending.extend(reversed(batch))
        return True

    def _list(self, lister: Lister) -> None:
        """Take what the server holds from ``offset`` on. This feed stays behind if ``lister`` raises."""
        self._mailbox.catch_up()  # first, so that events delivered from now on come through the mailbox
        try:
            place = self._hub.place
            if place.epoch != self.epoch:
                self.offset = max(min(self.offset, self._hub.lowest_base(self.epoch)), self._floor)
                self.epoch = place.epoch
            self._pending = lister(self.offset)[::-1]
        except BaseException:
            self._mailbox.behind = True
            raise

    def _catch_up(self, deadline: Deadline) -> bool:
        """List until the server answers. Returns False if the deadline has passed."""
        attempt = 0
        while True:
            try:
                self._list(self._lister)
                return True
            except ParlantSyncError as error:
                if not unread(error):
                    raise
                failure = error.with_traceback(None)  # this frame is in it: they would be left to the collector
            attempt += 1
            self._pause(deadline, failure, attempt)
            if self._over():
                raise self._ended() from failure
            if deadline.expired():
                return False

    def _pause(self, deadline: Deadline, failure: ParlantSyncError, attempt: int) -> None:
        """Wait after a list that failed; not for long if the server answers a poll meanwhile, or if this is the end."""
        pause = pause_after(failure, attempt)
        until = Deadline(deadline.bound(pause))
        # A 429 is obeyed to its end, also if a poll succeeds meanwhile.
        least = Deadline(pause if isinstance(failure, RateLimitedError) and failure.retry_after else SHORTEST_PAUSE)
        while not self._over() and not until.expired():
            try:
                # A reader that is behind gets no events: a nudge says that there is something to look at.
                self._mailbox.take(until.bound())
            except queue.Empty:
                return
            until = Deadline.earliest(until, least)
