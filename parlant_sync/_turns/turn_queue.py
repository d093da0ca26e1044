"""One turn at a time: which call may run the next turn of a session, and when the running turn gives way."""

from __future__ import annotations

import functools
import queue
import weakref
from collections.abc import Callable, Sequence

from parlant_sync._deadline import Deadline, get_in_time
from parlant_sync._polling.event_feed import Mailbox
from parlant_sync._turns.tracker import TurnTracker
from parlant_sync.events import Event

# A turn that no thread has waited in for this many seconds can be replaced, although it still runs at the server.
UNATTENDED = 2.0
# What wakes a waiting call: events of the session, or None if something else has changed.
Wake = queue.SimpleQueue[Sequence[Event] | None]


class TurnTicket:
    """A place in the queue; the first one may run a turn.

    It ends with ``release()``, when it is collected, or when its time is over. So the queue always goes on, even if
    the thread that holds the ticket is interrupted.
    """

    __slots__ = ("__weakref__", "_queue", "attended", "deadline", "patience", "released", "running", "wake")

    def __init__(self, waiting: list[weakref.ref[TurnTicket]], deadline: Deadline) -> None:
        self.deadline = deadline
        self.released = False
        self.attended = True  # a thread waits in the turn, or for it
        self.patience = deadline  # how long the turn is kept for its caller while no thread waits in it
        self.running: tuple[TurnTracker, int] | None = None  # the turn's tracker, and the offset that it begins at
        self.wake: Wake = queue.SimpleQueue()
        self._queue = waiting

    def release(self) -> None:
        """Idempotent. Takes no lock, so that a finalizer may call it."""
        if not self.released:
            self.released = True
            if len(self._queue) > 1:
                _nudge(self._queue)

    def leave_unattended(self) -> None:
        """No thread waits in the turn for now."""
        self.patience = Deadline(UNATTENDED)
        self.attended = False
        if len(self._queue) > 1:
            _nudge(self._queue)


class _WakeMailbox(Mailbox):
    """Passes what the poller delivers to a waiting call."""

    def __init__(self, wake: Wake) -> None:
        super().__init__(1)
        self._wake = wake

    def offer(self, batch: Sequence[Event]) -> None:
        self._wake.put(batch)


class TurnWatch:
    """What a waiting call sees of an unattended turn before its own."""

    def __init__(self, tracker: TurnTracker, offset: int, wake: Wake) -> None:
        self.mailbox = _WakeMailbox(wake)  # to be joined to the hub, which holds it weakly
        self._tracker = tracker
        self._next = offset
        self._quiet = Deadline(None)

    def feed(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.offset >= self._next:
                self._next = event.offset + 1
                if self._tracker.feed(event):
                    self._quiet = Deadline(self._tracker.quiet_for)

    def is_over(self) -> bool:
        return self._tracker.over or self._quiet.expired()

    def bound(self, until: Deadline) -> float | None:
        return self._quiet.bound(until.bound(None))


# Starts to watch the turn of a ticket, and puts its events into the queue; None if it cannot be watched.
Watch = Callable[[TurnTicket, Wake], TurnWatch | None]


class TurnQueue:
    """Lets one ``TurnTicket`` be first at a time, in the order in which they came. Thread-safe.

    It has no lock, because an interrupt could leave a lock taken: a list's append(), insert() and remove() are atomic.
    """

    def __init__(self) -> None:
        # Weak references: a ticket belongs to its turn, and nothing else must keep it from being collected.
        self._queue: list[weakref.ref[TurnTicket]] = []
        self._closed = False

    def enter(self, deadline: Deadline, watch: Watch | None = None) -> TurnTicket | None:
        """Wait until the turn before is over, or has no caller any more; return the ticket for the next turn.

        None if ``deadline`` passed first, or if the queue was closed. ``watch`` shows when a turn
        in which no thread waits is over; after ``UNATTENDED`` seconds it is replaced in any case.
        """
        mine = TurnTicket(self._queue, deadline)
        self._queue.append(self._reference(mine))
        watching: TurnWatch | None = None
        watched: weakref.ref[TurnTicket] | None = None
        try:
            while not self._closed:
                first = self._first(mine)
                if first is mine:
                    return mine
                if deadline.expired():
                    break
                until = deadline.bound(None if first is None else first.deadline.bound(None))
                if first is not None and not first.attended:
                    if watched is None or watched() is not first:
                        watched = weakref.ref(first)
                        watching = None if watch is None else watch(first, mine.wake)
                    if first.patience.expired() or (watching is not None and watching.is_over()):
                        first.release()
                        continue
                    until = first.patience.bound(until)
                    if watching is not None:
                        until = watching.bound(Deadline(until))
                del first  # a waiting call must not keep the ticket alive that it waits for
                try:
                    events = get_in_time(mine.wake, until)
                except queue.Empty:
                    continue
                if events and watching is not None:
                    watching.feed(events)
        except BaseException:
            mine.release()
            raise
        mine.release()
        return None

    def interrupt(self, deadline: Deadline) -> TurnTicket:
        """A ticket before all others, at once: its turn interrupts the one that runs."""
        mine = TurnTicket(self._queue, deadline)
        self._queue.insert(0, self._reference(mine))
        return mine

    def _reference(self, ticket: TurnTicket) -> weakref.ref[TurnTicket]:
        return weakref.ref(ticket, functools.partial(_nudge, self._queue))

    def _first(self, mine: TurnTicket) -> TurnTicket | None:
        """The first ticket that still counts. ``mine`` counts until another thread has seen that its time is over."""
        for ref in list(self._queue):
            first = ref()
            if first is mine or (first is not None and not first.released and not first.deadline.expired()):
                return first
            try:
                self._queue.remove(ref)
            except ValueError:
                pass  # another thread was faster
        return None

    def close(self) -> None:
        """All calls that wait, now or later, get None. Takes no lock."""
        self._closed = True
        _nudge(self._queue)


def _nudge(waiting: list[weakref.ref[TurnTicket]], _: object = None) -> None:
    """Make all waiting calls look again."""
    for ref in list(waiting):
        waiter = ref()
        if waiter is not None:
            waiter.wake.put(None)
