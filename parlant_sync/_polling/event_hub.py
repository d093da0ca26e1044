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

from parlant_sync._deadline import NEVER, Deadline, StopSignal
from parlant_sync._polling.event_feed import Mailbox
from parlant_sync.errors import ForkedProcessError, NotFoundError, ParlantSyncError, copy_for_waiter
from parlant_sync.events import Event, Mode

Listener = Callable[[ParlantSyncError], None]

# A poll that has not delivered a message this many seconds after its post is taken for dead, and made again. Servers
# answer within 0.25 s (WIRE.md). If the next poll does not deliver it either, it gets twice the time.
DELIVERED_WITHIN = 2.5


class LogPosition(NamedTuple):
    """Where the poller is in the server's log: ``next`` is the first offset not yet polled.

    ``epoch`` counts how often the server's numbering went back. ``base`` is where the present numbering was noticed.
    """

    next: int
    epoch: int = 0
    base: int = 0


class LogStart:
    """Where the polling of a session begins, or has begun; None while that is not decided."""

    __slots__ = ("offset",)

    def __init__(self, offset: int | None = None) -> None:
        self.offset = offset


class EventHub:
    """Hands each polled batch to all mailboxes. Keeps no events, and mailboxes only weakly. Thread-safe."""

    def __init__(self, start: int | None, where: str = "the session") -> None:
        """``start`` is where polling begins; None if the first turn or reader decides that, with ``begin()``.

        ``where`` names the session and its server, for messages.
        """
        self.stop_signal = StopSignal()
        self._pid = os.getpid()
        self._where = where
        # Both change by single list operations, without the lock: ``end`` may be called in a signal handler. The first
        # cause counts. Each is in a tuple of its own, so that ``end`` recognises the one that it has added.
        self._causes: list[tuple[ParlantSyncError]] = []
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()  # guards everything below; held for nothing slower than a queue's put
        self.first = LogStart(start)
        self.place = LogPosition(start or 0)  # written under the lock, by one store
        self._bases = [0]  # where each epoch was noticed
        self._mailboxes: list[weakref.ref[Mailbox]] = []
        # What a 404 means while the session is being deleted from here. Written without the lock, by one store.
        self.deleting: ParlantSyncError | None = None
        self.answers = 0  # how many polls have succeeded
        self.agent_status: str | None = None  # written under the lock, by one store
        # The mode that a tool has set since the session was last read. Written without the lock, by one store.
        self.handed_over: Mode | None = None
        self._posted = -1
        self._grace = DELIVERED_WITHIN
        # When the poll should have delivered what was posted here. Written under the lock, by one store.
        self.overdue = NEVER
        # When the server stored the last polled event, as the server wrote it; None if it did not say.
        self.last_created: object = None

    @property
    def start(self) -> int | None:
        return self.first.offset

    def begin(self, offset: int) -> int:
        """Let polling begin at ``offset``, if that was not decided before. Returns where it begins."""
        with self._lock:
            start = self.first.offset
            if start is not None:
                return start
            self.first.offset = offset
            self.place = LogPosition(offset)
        self.stop_signal.cut()  # the poller waits for this
        return offset

    @property
    def ending(self) -> ParlantSyncError | None:
        """Why no more events will come; None while the session goes on."""
        if self._pid != os.getpid():
            return ForkedProcessError(
                f"{self._where} was opened by process {self._pid}, before the fork; open it in this process with "
                "client.session(id)"
            )
        return self._causes[0][0] if self._causes else None

    @property
    def inherited(self) -> bool:
        """Whether this is a forked child, where another thread of the parent may hold the locks."""
        return self._pid != os.getpid()

    def check_process(self) -> None:
        """Raise in a forked child."""
        if self._pid != os.getpid():
            self.check()

    def check(self) -> None:
        """Raise what has ended the session, if anything has; also in a forked child."""
        ending = self.ending
        if ending is not None:
            raise copy_for_waiter(ending) from ending

    @property
    def backlog(self) -> int:
        """How many events wait in all mailboxes."""
        return sum(box.waiting for box in self._boxes())

    @property
    def pressure(self) -> float:
        """How full the fullest mailbox is; 1.0 is its limit."""
        return max((box.pressure for box in self._boxes()), default=0.0)

    def _boxes(self) -> list[Mailbox]:
        with self._lock:
            return [box for ref in self._mailboxes if (box := ref()) is not None]

    def join(self, mailbox: Mailbox, offset: int | None, epoch: int) -> LogPosition:
        """Send all later events to ``mailbox``. If its reader begins exactly there, it is not behind.

        Raises in a forked child.
        """
        self.check_process()
        with self._lock:
            self._mailboxes = [ref for ref in self._mailboxes if ref() is not None]
            self._mailboxes.append(weakref.ref(mailbox))
            begun = self.first.offset is not None
            if offset is None or (begun and offset == self.place.next and epoch == self.place.epoch):
                mailbox.catch_up()
            return self.place

    def leave(self, mailbox: Mailbox) -> None:
        with self._lock:
            self._mailboxes = [ref for ref in self._mailboxes if ref() not in (None, mailbox)]

    def deliver(self, events: Sequence[Event], asked: LogPosition) -> int:
        """Give the answer of a poll to every reader, then move on. Returns how many events were new; drops the others.

        A reader that is behind gets no events, but is woken: the server answers again.
        """
        with self._lock:
            self.answers += 1
            if self._causes or asked.epoch != self.place.epoch:
                return 0
            start = self.place.next
            fresh = events if not events or events[0].offset >= start else [e for e in events if e.offset >= start]
            for ref in self._mailboxes:
                mailbox = ref()
                if mailbox is not None:
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
            if self._causes or not self.overdue.expired():
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
            for ref in self._mailboxes:
                mailbox = ref()
                if mailbox is not None:
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

    def on_end(self, listener: Listener) -> Listener:
        """Have ``listener`` called with the cause when the session ends; at once if it has ended. Returns it."""
        self._listeners.append(listener)
        if self._causes:
            listener(self._causes[0][0])
        return listener

    def forget_listener(self, listener: Listener) -> None:
        if listener in self._listeners:
            self._listeners.remove(listener)

    def end(self, cause: ParlantSyncError) -> bool:
        """End the session: set the cause, and wake everything that waits. The first cause wins; returns whether it did.

        This is the one way to end a session. It wakes readers, pauses and the running poll, and through ``on_end`` the
        turns that queue and the requests that run. It does not take the hub's lock: a signal handler may call it while
        its own thread holds a mailbox's lock that the poller waits for, holding the hub's.
        """
        mine = ((isinstance(cause, NotFoundError) and self.deleting) or cause,)
        self._causes.append(mine)
        if self._causes[0] is not mine:
            return False
        self.stop_signal.set()
        self._nudge()
        for listener in list(self._listeners):
            listener(mine[0])
        return True

    def _nudge(self) -> None:
        """Make all readers look up."""
        for ref in list(self._mailboxes):
            mailbox = ref()
            if mailbox is not None:
                mailbox.nudge()

    def is_locked_here(self) -> bool:
        """Whether this thread holds a lock that the poller needs: it was interrupted by a signal handler meanwhile."""
        locks: list[Any] = [self._lock]
        locks += [box.mutex for ref in list(self._mailboxes) if (box := ref()) is not None]
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
