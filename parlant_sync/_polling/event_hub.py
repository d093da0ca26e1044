"""Where a session's one poller meets its many readers: the next offset, and which mailboxes get the events.

Order of the locks in this library, outermost first: poller, hub, mailbox; and metrics, registry. Hold every other lock
alone. A lock is reentrant if objects are created or released under it: the garbage collector may run a finalizer of
the caller there, and that may close a session.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from parlant_sync._api.streaming import StreamedMessage
from parlant_sync._deadline import NEVER, Deadline, StopSignal
from parlant_sync._polling.event_feed import Mailbox
from parlant_sync._single_owner import SingleOwner
from parlant_sync.errors import ForkedProcessError, NotFoundError, ParlantSyncError, copy_for_waiter
from parlant_sync.events import Event, Mode

# A poll that has not delivered a message this many seconds after its post is taken for dead, and made again. Servers
# answer within 0.25 s (WIRE.md). If the next poll does not deliver it either, it gets twice the time.
DELIVERED_WITHIN = 2.5

_UNDECIDED = -1


class LogPosition(NamedTuple):
    """Where the poller is in the server's log: ``next`` is the first offset not yet polled.

    ``epoch`` counts how often the server's numbering went back. ``base`` is where the present numbering was noticed.
    """

    next: int
    epoch: int = 0
    base: int = 0


class Position:
    """How far a reader has given events. All default readers of a session share one.

    Written by the thread that is inside a reader's ``next``: the one that has the claim.
    """

    __slots__ = ("claim", "epoch", "given", "growing", "offset")

    def __init__(self, offset: int | None, epoch: int = 0) -> None:
        self.claim = SingleOwner()
        self.offset = _UNDECIDED if offset is None else offset  # of the next event to give
        self.epoch = epoch
        self.given: int | None = None  # the event given last, until the caller asks for the next one
        self.growing: StreamedMessage | None = None  # met last: all readers notice together that it stops growing

    @property
    def known(self) -> int | None:
        """The next event to give; None until ``EventHub.begin()`` decides that."""
        return None if self.offset == _UNDECIDED else self.offset

    @property
    def cursor(self) -> int | None:
        return self.known if self.given is None else self.given


class EventHub:
    """Hands each polled batch to all mailboxes. Keeps no events, and mailboxes only weakly. Thread-safe."""

    __slots__ = (
        "_bases",
        "_first_cause",
        "_grace",
        "_listeners",
        "_lock",
        "_mailboxes",
        "_pid",
        "_posted",
        "_where",
        "agent_status",
        "deleting",
        "ending",
        "handed_over",
        "last_created",
        "overdue",
        "place",
        "position",
        "start",
        "stop_signal",
    )

    def __init__(self, start: int | None, where: str = "the session") -> None:
        """``start`` is where polling begins; None if the first turn or reader decides that, with ``begin()``.

        ``where`` names the session and its server, for messages.
        """
        self.stop_signal = StopSignal()
        self._pid = os.getpid()
        self._where = where
        # Why no more events will come; None while the session goes on. Decided without the lock, because ``end()`` may
        # be called in a signal handler: setdefault() is atomic, so the first cause counts.
        self.ending: ParlantSyncError | None = None
        self._first_cause: dict[None, ParlantSyncError] = {}
        self._listeners: list[Callable[[ParlantSyncError], None]] = []
        self._lock = threading.RLock()  # guards everything below; held for nothing slower than a queue's put
        self.start = start
        self.position = Position(start)  # of the session's default readers
        self.place = LogPosition(start or 0)  # written under the lock, by one store
        self._bases = [0]  # where each epoch was noticed
        # Changed by single list operations, because readers leave without the lock.
        self._mailboxes: list[weakref.ref[Mailbox]] = []
        # What a 404 means while the session is being deleted from here. Written without the lock, by one store.
        self.deleting: ParlantSyncError | None = None
        self.agent_status: str | None = None  # written under the lock, by one store
        # The mode that a tool has set since the session was last read. Written without the lock, by one store.
        self.handed_over: Mode | None = None
        self._posted = -1
        self._grace = DELIVERED_WITHIN
        # When the poll should have delivered what was posted here. Written under the lock, by one store.
        self.overdue = NEVER
        # When the server stored the last polled event, as the server wrote it; None if it did not say.
        self.last_created: object = None

    def begin(self, offset: int) -> int:
        """Let polling and the default readers begin at ``offset``, if that was not decided before. Returns where."""
        if self.start is not None:
            return self.start
        with self._lock:
            if self.start is None:
                self.place = LogPosition(offset)
                self.position.offset = self.start = offset
        self.stop_signal.cut()  # the poller waits for this
        return self.start

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child, where another thread of the parent may hold the locks."""
        return self._pid != os.getpid()

    def check_process(self) -> None:
        """Raise in a forked child."""
        if self._pid != os.getpid():
            raise ForkedProcessError(
                f"{self._where} was opened by process {self._pid}, before the fork; open it in this process with "
                "client.session(id)"
            )

    def check(self) -> None:
        """Raise what has ended the session, if anything has; also in a forked child."""
        if self._pid != os.getpid():
            self.check_process()
        if self.ending is not None:
            raise copy_for_waiter(self.ending) from self.ending

    @property
    def backlog(self) -> int:
        """How many events wait in all mailboxes."""
        return sum(box.waiting for box in self._boxes())

    @property
    def pressure(self) -> float:
        """How full the fullest mailbox is; 1.0 is its limit."""
        return max((box.pressure for box in self._boxes()), default=0.0)

    def _boxes(self) -> list[Mailbox]:
        return [box for ref in list(self._mailboxes) if (box := ref()) is not None]

    def join(self, mailbox: Mailbox, offset: int | None, epoch: int | None) -> LogPosition:
        """Send all later events to ``mailbox``, which is new. If its reader begins exactly there, it is not behind."""
        with self._lock:
            self._mailboxes.append(weakref.ref(mailbox, self._mailboxes.remove))
            place = self.place
            same_numbering = epoch is None or epoch == place.epoch
            if offset is None or (offset == place.next and same_numbering):
                mailbox.behind = False
            return place

    def leave(self, mailbox: Mailbox) -> None:
        """Send no more events to it. Idempotent; takes no lock."""
        try:
            self._mailboxes.remove(weakref.ref(mailbox))
        except ValueError:
            pass

    def deliver(self, events: Sequence[Event], asked: LogPosition) -> int:
        """Give the answer of a poll to every reader, then move on. Returns how many events were new; drops the others.

        A reader that is behind gets no events, but is woken: the server answers again.
        """
        with self._lock:
            if self.ending is not None or asked.epoch != self.place.epoch:
                return 0
            start = self.place.next
            fresh = events if not events or events[0].offset >= start else [e for e in events if e.offset >= start]
            for mailbox in self._boxes():
                mailbox.offer(fresh)
            if not fresh:
                return 0
            if fresh[-1].offset >= self._posted:
                self.overdue, self._grace = NEVER, DELIVERED_WITHIN
            self.agent_status = _last_status(fresh) or self.agent_status
            self.handed_over = _last_mode(fresh) or self.handed_over
            self.last_created = fresh[-1].raw.get("creation_utc")
            self.place = LogPosition(fresh[-1].offset + 1, self.place.epoch, self.place.base)
            return len(fresh)

    def latest(self) -> int:
        """The offset after the last event that was polled or posted here."""
        with self._lock:
            return max(self.place.next, self._posted + 1)

    def note_posted(self, posted: int, known: LogPosition) -> bool:
        """An event posted here has this offset. ``known`` was the place before it was sent.

        Returns True if it is below what had been polled by then: the server's numbering went back (WIRE.md). Call
        ``renumber()`` next.
        """
        with self._lock:
            self._posted = posted
            if posted >= self.place.next:
                self.overdue = Deadline(self._grace)
                self._nudge()  # readers that wait already have to know until when
            return self._is_below(posted, known)

    def take_overdue(self) -> bool:
        """Whether the running poll is overdue. Returns True to one caller, who makes the poller ask again."""
        if not self.overdue.expired():
            return False
        with self._lock:
            if self.ending is not None or not self.overdue.expired():
                return False
            self._grace *= 2
            self.overdue = Deadline(self._grace)
            return True

    def renumber(self, start: int, known: LogPosition) -> bool:
        """The new numbering begins at ``start``: the poller and every reader continue from there or from below it.

        Returns False if another post has noticed it already.
        """
        with self._lock:
            if not self._is_below(start, known):
                return False
            self._bases.append(start)
            self.place = LogPosition(start, self.place.epoch + 1, start)
            for mailbox in self._boxes():
                mailbox.let_go()
            return True

    def lowest_base(self, epoch: int) -> int:
        """The lowest offset that the server has used again since ``epoch``, which is an earlier one."""
        with self._lock:
            return min(self._bases[epoch + 1 :])

    def _is_below(self, offset: int, known: LogPosition) -> bool:
        """Whether an event of the newest numbering is below everything known of it. The lock is held."""
        place = self.place
        return offset < (known.next if known.epoch == place.epoch else place.base)

    def on_end(self, listener: Callable[[ParlantSyncError], None]) -> None:
        """Have ``listener`` called with the cause when the session ends, once or more often."""
        self._listeners.append(listener)

    def end(self, cause: ParlantSyncError) -> None:
        """End the session: set the cause, and wake everything that waits. Idempotent: the first cause counts.

        This is the one way to end a session. It wakes readers and pauses, and through ``on_end`` the turns that queue
        and the requests that run. It does not take the hub's lock: a signal handler may call it while its own thread
        holds a mailbox's lock that the poller waits for, holding the hub's.
        """
        if isinstance(cause, NotFoundError) and self.deleting is not None:
            cause = self.deleting
        # Each caller does the rest, because an exception of a signal handler may have kept the first one from it.
        self.ending = cause = self._first_cause.setdefault(None, cause)
        self.stop_signal.set()
        self._nudge()
        for listener in self._listeners:
            listener(cause)

    def _nudge(self) -> None:
        """Make all readers look up."""
        for mailbox in self._boxes():
            mailbox.nudge()

    def is_locked_here(self) -> bool:
        """Whether this thread holds a lock that the poller needs: it was interrupted by a signal handler meanwhile."""
        locks: list[Any] = [self._lock, *(box.mutex for box in self._boxes())]
        return any(lock._is_owned() for lock in locks)

    def drop_inherited(self) -> None:
        """In a forked child: replace the lock, which a thread of the parent may hold."""
        self._lock = threading.RLock()


def _last_status(events: Sequence[Event]) -> str | None:
    for event in reversed(events):
        if event.source == "ai_agent" and event.status is not None:
            return event.status
    return None


def _last_mode(events: Sequence[Event]) -> Mode | None:
    """The mode that a tool of these has set by the ``control`` in its result."""
    for event in reversed(events):
        for call in event.tool_calls if event.kind == "tool" else ():
            result = call.get("result")
            control = result.get("control") if isinstance(result, dict) else None
            mode = control.get("mode") if isinstance(control, dict) else None
            if mode in ("auto", "manual"):
                return "manual" if mode == "manual" else "auto"
    return None
