"""A reader's place in the log: gives the events of a session in offset order, each once, wherever they come from.

A feed is an offset and a mailbox. While it keeps up, events come through the mailbox; when it is behind, it lists from
its own offset, gives all of that, and goes on from the mailbox, dropping what it already had.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable

from parlant_sync.api import UNREAD
from parlant_sync.deadline import Deadline
from parlant_sync.errors import ParlantSyncError, SessionClosed
from parlant_sync.events import Event
from parlant_sync.hub import Hub
from parlant_sync.mailbox import Mailbox
from parlant_sync.retry import jittered

Lister = Callable[[int, Deadline], list[Event]]


class FeedEnd(Exception):
    """No more events will come; ``cause`` says why."""

    def __init__(self, cause: ParlantSyncError) -> None:
        super().__init__(cause)
        self.cause = cause


class Feed:
    """For one thread at a time. ``offset`` is the next one wanted; ``lister`` lists from an offset."""

    def __init__(
        self, hub: Hub, lister: Lister, limit: int, *, offset: int | None = None, epoch: int | None = None
    ) -> None:
        """From ``offset`` (of the numbering ``epoch``) on, or with None from what the poller has not yet seen."""
        self._hub = hub
        self._lister = lister
        self._limit = limit
        self._pending: deque[Event] = deque()
        self._mailbox: Mailbox | None = None
        self._epoch = hub.place.epoch if epoch is None else epoch
        self.offset = -1 if offset is None else offset
        self.open()

    def open(self) -> None:
        """Join the hub (again). What came while nobody listened is listed from the server."""
        if self._mailbox is not None:
            return
        mailbox = Mailbox(self._limit)
        place = self._hub.join(mailbox, None if self.offset < 0 else self.offset, self._epoch)
        if self.offset < 0:
            self.offset = place.next
            self._epoch = place.epoch
        self._pending.clear()
        self._mailbox = mailbox

    def close(self) -> None:
        """Leave the hub; ``offset`` stays, for a later ``open()``."""
        mailbox, self._mailbox = self._mailbox, None
        self._pending.clear()
        if mailbox is not None:
            self._hub.leave(mailbox)
            mailbox.nudge()  # another thread may be waiting in it

    def skip_to(self, offset: int) -> None:
        """Nothing below ``offset`` is wanted (any more)."""
        self.offset = max(self.offset, offset)

    def go_to(self, offset: int) -> None:
        """Start again from ``offset``, where the server's numbering has changed."""
        self.offset = offset
        self._epoch = self._hub.place.epoch
        self._let_go()

    def get(self, deadline: Deadline) -> Event | None:
        """The next event, or None when ``deadline`` passes first.

        Raises :class:`FeedEnd` after the last one, and what a list raises that no patience mends (401, 403, 404).
        """
        while True:
            event = self.pop()
            if event is not None:
                return event
            if not self._fill(deadline):
                return None

    def list_now(self, deadline: Deadline) -> None:
        """Ask the server itself, as if behind; ``get`` then gives what it holds."""
        self._let_go()
        self._catch_up(deadline, once=True)

    def back_to(self, offset: int) -> None:
        """Give again from ``offset`` on: what was taken since then was not used."""
        self.offset = offset
        self._let_go()

    def pop(self) -> Event | None:
        """The next event, if it is here already; never waits."""
        while self._pending:
            event = self._next_pending()
            if event is not None:
                return event
        return None

    @property
    def epoch(self) -> int:
        """Which numbering of the server ``offset`` belongs to."""
        return self._epoch

    def _next_pending(self) -> Event | None:
        try:
            event = self._pending.popleft()
        except BaseException:
            self._let_go()  # an interrupt in between: the item may be out and nowhere
            raise
        if event.offset < self.offset:
            return None
        self.offset = event.offset + 1
        return event

    def _fill(self, deadline: Deadline) -> bool:
        """Wait for more to give; False when the deadline has passed."""
        mailbox = self._mailbox
        if mailbox is None:
            raise FeedEnd(SessionClosed("this reader was closed"))
        # Looked at before the wait: whoever ends the session afterwards also nudges this mailbox.
        ending = self._hub.ending
        if mailbox.is_behind():
            if ending is not None:
                raise FeedEnd(ending)
            return self._catch_up(deadline)
        try:
            self._pending.extend(mailbox.take(deadline.bound(None) if ending is None else 0))
        except queue.Empty:
            if mailbox.is_behind():
                return True
            if ending is not None:
                raise FeedEnd(ending) from None
            return not deadline.expired()
        except BaseException:
            self._let_go()  # an interrupted take: the batch may be out and nowhere
            raise
        return True

    def _catch_up(self, deadline: Deadline, *, once: bool = False) -> bool:
        mailbox = self._mailbox
        assert mailbox is not None
        attempt = 0
        while True:
            place = self._hub.place
            mailbox.catch_up()
            if place.epoch != self._epoch:
                self._epoch = place.epoch
                self.offset = place.base
            try:
                self._pending = deque(self._lister(self.offset, deadline))
                return True
            except UNREAD:
                if once:
                    raise
                attempt += 1
                mailbox.let_go()
            # Nothing is told to a reader that is behind, so only the end of the session can cut this pause short.
            self._pause(Deadline(deadline.bound(jittered(attempt))))
            if self._hub.ending is not None:
                raise FeedEnd(self._hub.ending)
            if deadline.expired():
                return False

    def _pause(self, pause: Deadline) -> None:
        mailbox = self._mailbox
        assert mailbox is not None
        while self._hub.ending is None and not pause.expired():
            try:
                mailbox.take(pause.bound(None))
            except queue.Empty:
                return

    def _let_go(self) -> None:
        self._pending.clear()
        if self._mailbox is not None:
            self._mailbox.let_go()
