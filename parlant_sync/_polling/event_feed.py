"""A reader's place in the log: gives the events of a session in offset order, each once, however they arrive.

A feed is an offset and a mailbox. While it keeps up, events come through the mailbox. If it is behind, it lists from
its own offset, gives all of that list, and continues from the mailbox, dropping the events it already had.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Sequence

from parlant_sync._api.retry import SHORTEST_PAUSE, pause_after, unread
from parlant_sync._deadline import NEVER, Deadline
from parlant_sync._polling.event_hub import EventHub
from parlant_sync._polling.mailbox import Mailbox
from parlant_sync.errors import ParlantSyncError, RateLimitedError, SessionClosed
from parlant_sync.events import Event

Lister = Callable[[int], list[Event]]


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
