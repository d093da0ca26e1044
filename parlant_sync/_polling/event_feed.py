"""A reader's way through the log: gives the events of a session in offset order, each once, wherever they come from.

A feed is an offset and a mailbox. While it keeps up, events come through the mailbox; when it is behind, it lists from
its own offset, gives all of that, and goes on from the mailbox, dropping what it already had.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Sequence

from parlant_sync._api.calls import unread
from parlant_sync._api.retry import LONGEST_RETRY_AFTER, jittered
from parlant_sync._deadline import Deadline
from parlant_sync._polling.event_hub import EventHub
from parlant_sync._polling.mailbox import Mailbox
from parlant_sync.errors import ParlantSyncError, SessionClosed
from parlant_sync.events import Event

Lister = Callable[[int], list[Event]]

# As often a reader that does not wait asks before it gives up: as any call that reads.
_ATTEMPTS = 3


class FeedEnded(Exception):
    """No more events will come; ``cause`` says why."""

    def __init__(self, cause: ParlantSyncError) -> None:
        super().__init__(cause)
        self.cause = cause


class EventFeed:
    """For one thread at a time, but ``leave()``. ``offset`` is the next one wanted; ``lister`` lists from an offset."""

    def __init__(
        self, hub: EventHub, lister: Lister, limit: int, *, offset: int | None = None, epoch: int | None = None
    ) -> None:
        """From ``offset`` (of the numbering ``epoch``) on, or with None from what the poller has not yet seen."""
        self._hub = hub
        self._lister = lister
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
        """Nothing more is wanted: what has arrived is given, and then comes the end. From any thread."""
        self._left = SessionClosed("this reader was closed; iter_events() goes on where it stopped")
        self._hub.leave(self._mailbox)
        self._mailbox.nudge()

    def skip_to(self, offset: int) -> None:
        """Nothing below ``offset`` is wanted (any more)."""
        self.offset = max(self.offset, offset)

    def start_at(self, offset: int) -> None:
        """Nothing below ``offset`` will ever be wanted, whatever the numbering of the server does."""
        self._floor = offset
        epoch = self._hub.place.epoch
        if epoch == self._epoch:
            self.skip_to(offset)
        else:
            self._epoch = epoch
            self.back_to(offset)

    def get(self, deadline: Deadline) -> Event | None:
        """The next event, or None when ``deadline`` passes first.

        Raises :class:`FeedEnded` after the last one, and what a list raises that no patience mends (401, 403, 404).
        """
        while True:
            event = self.pop()
            if event is not None:
                return event
            if not self._fill(deadline):
                return None

    def list_now(self) -> None:
        """Ask the server itself, as if behind; ``pop`` then gives what it holds. Raises what the list raises."""
        self._let_go()
        self._catch_up(Deadline(None), attempts=_ATTEMPTS)

    def back_to(self, offset: int, epoch: int | None = None) -> None:
        """Give from ``offset`` (of the numbering ``epoch``) on, or again: what was taken since then was not used."""
        self.offset = offset
        if epoch is not None:
            self._epoch = epoch
        self._let_go()

    def put_back(self, events: Sequence[Event]) -> None:
        """These were taken last, in this order, and are to be given next."""
        if events:
            self.offset = events[0].offset
            self._pending.extendleft(reversed(events))

    def pop(self) -> Event | None:
        """The next event, if it is here already; never waits."""
        if self._hub.place.epoch != self._epoch:
            self._pending.clear()  # of a numbering that is gone; this feed is behind
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

    def _ending(self) -> ParlantSyncError | None:
        return self._hub.ending or self._left

    def _fill(self, deadline: Deadline) -> bool:
        """Wait for more to give; False when the deadline has passed."""
        mailbox = self._mailbox
        # Looked at before the wait: whoever ends the session afterwards also nudges this mailbox.
        ending = self._ending()
        if mailbox.is_behind():
            if self._hub.ending is not None:
                raise FeedEnded(self._hub.ending)
            # Of one who has left while he was behind, what had arrived is on the server.
            return self._catch_up(deadline, attempts=1 if ending is not None else float("inf"))
        try:
            self._pending.extend(mailbox.take(deadline.bound(None) if ending is None else 0))
        except queue.Empty:
            if mailbox.is_behind():
                return True
            if ending is not None:
                raise FeedEnded(ending) from None
            return not deadline.expired()
        except BaseException:
            self._let_go()  # an interrupted take: the batch may be out and nowhere
            raise
        return True

    def _catch_up(self, deadline: Deadline, *, attempts: float = float("inf")) -> bool:
        attempt = 0
        while True:
            # First: whatever is told from here on comes through the mailbox, a new numbering, too.
            self._mailbox.catch_up()
            place = self._hub.place
            if place.epoch != self._epoch:
                self.offset = max(min(self.offset, self._hub.lowest_base(self._epoch)), self._floor)
                self._epoch = place.epoch
            try:
                self._pending = deque(self._lister(self.offset))
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
                wish = min(getattr(error, "retry_after", None) or 0.0, LONGEST_RETRY_AFTER)
            self._pause(Deadline(deadline.bound(max(jittered(attempt), wish))))
            ending = self._ending()
            if ending is not None:
                raise FeedEnded(ending)
            if deadline.expired():
                return False

    def _pause(self, pause: Deadline) -> None:
        """Nothing is told to a reader that is behind, so only an end can cut this short."""
        while self._ending() is None and not pause.expired():
            try:
                self._mailbox.take(pause.bound(None))
            except queue.Empty:
                return

    def _let_go(self) -> None:
        self._pending.clear()
        self._mailbox.let_go()
