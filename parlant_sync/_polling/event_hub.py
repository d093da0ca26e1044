"""Where a session's one poller meets its many readers: the next offset, and who wants to be told.

Order of locks in this library, outermost first: poller, hub, mailbox; and metrics, registry. Every other one is held
alone. Where objects are made or let go under a lock, it is reentrant: the collector may run a finalizer of the caller's
in there, which closes a session.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

from parlant_sync._polling.mailbox import Mailbox
from parlant_sync.errors import NotFoundError, ParlantSyncError
from parlant_sync.events import Event


class LogPosition(NamedTuple):
    """Where the poller is in the server's log: ``next`` is the offset not yet polled.

    ``epoch`` counts renumberings of the server, ``base`` is the offset at which the present one was noticed.
    """

    next: int
    epoch: int = 0
    base: int = 0


class EventHub:
    """Thread-safe. Keeps no events; a reader that nobody holds any more is forgotten."""

    def __init__(self, next_offset: int, *, on_end: Callable[[], None] = lambda: None) -> None:
        self._on_end = on_end  # called once, outside the lock
        self._lock = threading.RLock()  # guards all attributes below; nothing slower than a queue's put happens in it
        self._place = LogPosition(next_offset)
        self._bases = [0]  # of each epoch, where it was noticed
        self._mailboxes: list[weakref.ref[Mailbox]] = []
        self._ending: ParlantSyncError | None = None
        # What a 404 means while the session is being deleted from here; a single store, made without the lock.
        self.deleting: ParlantSyncError | None = None
        self._agent_status: str | None = None
        self._posted = -1
        self._last_created: object = None

    @property
    def place(self) -> LogPosition:
        return self._place

    @property
    def ending(self) -> ParlantSyncError | None:
        """Why no more events will come; None while they may."""
        return self._ending

    @property
    def agent_status(self) -> str | None:
        return self._agent_status

    @property
    def last_created(self) -> object:
        """When the server stored the event polled last, as the server wrote it; None where it did not tell."""
        return self._last_created

    @property
    def backlog(self) -> int:
        """How many events wait in all mailboxes together."""
        return sum(box.waiting for box in self._boxes())

    @property
    def pressure(self) -> float:
        """How full the fullest mailbox is; 1.0 is its limit."""
        return max((box.pressure for box in self._boxes()), default=0.0)

    def _boxes(self) -> list[Mailbox]:
        with self._lock:
            return [box for ref in self._mailboxes if (box := ref()) is not None]

    def join(self, mailbox: Mailbox, offset: int | None, epoch: int) -> LogPosition:
        """Tell ``mailbox`` of all that comes from now on. A reader that wants exactly that is not behind."""
        with self._lock:
            self._mailboxes = [ref for ref in self._mailboxes if ref() is not None]
            self._mailboxes.append(weakref.ref(mailbox))
            if offset is None or (offset == self._place.next and epoch == self._place.epoch):
                mailbox.catch_up()
            return self._place

    def leave(self, mailbox: Mailbox) -> None:
        with self._lock:
            self._mailboxes = [ref for ref in self._mailboxes if ref() not in (None, mailbox)]

    def deliver(self, events: Sequence[Event], asked: LogPosition) -> int:
        """Hand a polled batch to every reader, then move on. Repeats are dropped. Returns how many were new."""
        with self._lock:
            if self._ending is not None or asked.epoch != self._place.epoch:
                return 0
            start = self._place.next
            fresh = events if not events or events[0].offset >= start else [e for e in events if e.offset >= start]
            if not fresh:
                return 0
            for ref in self._mailboxes:
                mailbox = ref()
                if mailbox is not None:
                    mailbox.offer(fresh)
            self._agent_status = _last_status(fresh) or self._agent_status
            self._last_created = fresh[-1].raw.get("creation_utc")
            self._place = LogPosition(fresh[-1].offset + 1, self._place.epoch, self._place.base)
            return len(fresh)

    def latest(self) -> int:
        """The offset after the last event known to exist, be it polled or posted here."""
        with self._lock:
            return max(self._place.next, self._posted + 1)

    def note_posted(self, posted: int, known: LogPosition) -> bool:
        """An event posted here got this offset; ``known`` was the place before it was sent.

        True where it lies below what had been polled by then: the server's numbering went back (WIRE.md), and
        ``renumber()`` is next.
        """
        with self._lock:
            self._posted = posted
            return self._is_below(posted, known)

    def renumber(self, start: int, known: LogPosition) -> bool:
        """The new numbering begins at ``start``: the poller and every reader go on from there, or from further below.

        False where another post has noticed it already.
        """
        with self._lock:
            if not self._is_below(start, known):
                return False
            self._bases.append(start)
            self._place = LogPosition(start, self._place.epoch + 1, start)
            for ref in self._mailboxes:
                mailbox = ref()
                if mailbox is not None:
                    mailbox.let_go()
            return True

    def lowest_base(self, epoch: int) -> int:
        """The lowest offset that was given anew since ``epoch``, an earlier one than now."""
        with self._lock:
            return min(self._bases[epoch + 1 :])

    def _is_below(self, offset: int, known: LogPosition) -> bool:
        """Whether an event of the newest numbering lies below all that is known of it. The lock is held."""
        place = self._place
        return offset < (known.next if known.epoch == place.epoch else place.base)

    def end(self, cause: ParlantSyncError) -> bool:
        """No more events and no more turns; ``cause`` is told to every reader. The first cause wins."""
        with self._lock:
            if self._ending is not None:
                return False
            self._ending = (isinstance(cause, NotFoundError) and self.deleting) or cause
            for ref in self._mailboxes:
                mailbox = ref()
                if mailbox is not None:
                    mailbox.nudge()
        self._on_end()
        return True

    def drop_inherited(self) -> None:
        """In a forked child, where a thread that does not exist there may hold the lock."""
        self._lock = threading.RLock()


def _last_status(events: Sequence[Event]) -> str | None:
    for event in reversed(events):
        if event.source == "ai_agent" and event.status is not None:
            return event.status
    return None
