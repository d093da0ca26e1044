"""``iter_events()``: an iterator over a session's events, in offset order, each once."""

from __future__ import annotations

from types import TracebackType

from parlant_sync import errors
from parlant_sync._api.streaming import BY_LIST, StreamedMessage
from parlant_sync._deadline import Deadline
from parlant_sync._polling.event_feed import EventFeed, FeedEnded
from parlant_sync._polling.event_hub import Position
from parlant_sync._turns.starter import TurnStarter
from parlant_sync.events import Event


class EventReader:
    """The events of a session as they come. An iterator, and a context manager whose end is ``close()``.

    For one thread at a time: a second one gets ConcurrencyError. ``next`` raises StopIteration when no event came for
    ``timeout`` seconds or the session was closed, NotFoundError, AuthenticationError or PermissionDeniedError when it
    is gone or no longer allowed. Outages of the server do not end it.
    """

    def __init__(
        self,
        starter: TurnStarter,
        feed: EventFeed,
        position: Position,
        *,
        owner: object,
        listed: bool,
        timeout: float | None,
        kinds: frozenset[str] | None,
        sources: frozenset[str] | None,
        partial: bool,
    ) -> None:
        """``owner`` is the session, which lives as long as one of its readers. ``listed``: the feed has listed once."""
        self._owner = owner
        self._starter = starter
        self._messages = starter.messages
        self._feed = feed
        self._position = position
        self._listed = listed
        self._timeout = timeout
        self._kinds = kinds
        self._sources = sources
        self._partial = partial
        self._done = False
        self._ready: list[Event] = []  # readings of the growing message, to be given before anything else
        self._growing: StreamedMessage | None = None

    @property
    def cursor(self) -> int:
        """The offset to resume from after a restart: of the event given last, until the following one is asked for.

        Saved after each event was dealt with, and given as ``since``, it repeats one event rather than losing one.
        """
        return self._position.cursor or 0

    def close(self) -> None:
        """End the iteration, after what had arrived. Idempotent; from any thread."""
        self._feed.leave()

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> EventReader:
        return self

    def __next__(self) -> Event:
        if self._done:
            raise StopIteration
        self._starter.hub.check_process()
        position = self._position
        try:
            if not position.claim.take():
                raise errors.ConcurrencyError(
                    f"{self._starter.where}: another thread is reading it by this reader; open one of its own with "
                    "iter_events(since=...)"
                )
            position.given = None
            event = self._next()
            given = event.offset
            following = position.offset if event.is_partial and self._partial else given + 1
        except errors.ConcurrencyError:
            raise
        except (StopIteration, errors.SessionClosed):
            self._end()
            raise StopIteration from None
        except FeedEnded as end:
            self._end()
            if isinstance(end.cause, errors.SessionClosed):
                raise StopIteration from None
            raise errors.copy_for_waiter(end.cause) from end.cause
        except BaseException:
            # Events that were taken but not given are listed again.
            self._forget()
            self._feed.back_to(position.offset, position.epoch)
            position.claim.let_go()
            raise
        # Nothing but stores from here on: an interrupt comes at calls only, and must not part the event from its place.
        position.offset = following
        position.given = given
        position.claim.by = {}
        return event

    def _end(self) -> None:
        self._done = True
        self._position.claim.let_go()
        self._feed.leave()

    def _forget(self) -> None:
        self._ready.clear()
        self._growing = None

    def _next(self) -> Event:
        self._see_others()
        position, feed = self._position, self._feed
        idle = Deadline(self._timeout)
        while True:
            while self._ready:
                event = self._ready.pop(0)
                if not self._filtered(event):
                    return event
            found = feed.pop() if self._growing is None else None
            if found is None:
                found = self._wait(idle)
            if found is not None:
                idle = Deadline(self._timeout)
                if feed.epoch != position.epoch and self._renumbered(found):
                    continue
                if found.offset < position.offset:
                    continue  # another default reader has given it, of a numbering that this one is just learning of
                if self._growing is not None:
                    self._hold(self._growing, found, idle)
                elif self._filtered(found):
                    continue
                elif not found.is_partial:
                    return found
                else:
                    self._watch(found)
                    if self._partial:
                        return found
            growing = self._growing
            if growing is not None and growing.is_due:
                if self._refresh(growing, idle):
                    idle = Deadline(self._timeout)
            elif found is None and not self._ready and idle.expired():
                raise StopIteration

    def _see_others(self) -> None:
        """Another default reader may have given events out since, or may know of a new numbering."""
        position, feed = self._position, self._feed
        if feed.epoch != position.epoch:
            self._forget()
            if feed.epoch > position.epoch:
                position.epoch, position.offset = feed.epoch, min(position.offset, feed.offset)
                feed.back_to(position.offset)
        elif position.offset > feed.offset:
            self._forget()
            feed.skip_to(position.offset)
        else:
            while self._ready and self._ready[0].offset < position.offset:
                self._ready.pop(0)
            growing = self._growing
            if growing is not None and growing.event.offset < position.offset:
                self._growing = None
                feed.put_back([event for event in growing.held if event.offset >= position.offset])

    def _renumbered(self, found: Event) -> bool:
        """``found`` is the first one after the numbering went back; True where there is more to give before it."""
        position, feed = self._position, self._feed
        self._forget()
        position.epoch = feed.epoch
        if position.offset < found.offset:
            feed.back_to(position.offset)
            return True
        position.offset = found.offset
        return False

    def _filtered(self, event: Event) -> bool:
        if (self._kinds is None or event.kind in self._kinds) and (
            self._sources is None or event.source in self._sources
        ):
            return False
        self._position.offset = event.offset + 1
        return True

    def _wait(self, idle: Deadline) -> Event | None:
        """The feed's next event; None when none came for too long, or when a growing message is to be read again."""
        with self._starter.using_also_closed():
            if self._timeout == 0:
                if not self._listed:
                    self._feed.list_now(self._starter.list_once)
                    self._listed = True
                return self._feed.pop()
            growing = self._growing
            return self._feed.get(idle if growing is None else Deadline.earliest(idle, growing.due))

    # -- streamed messages

    @property
    def _every(self) -> float:
        """In how many seconds a growing message is read again. Only ``partial`` shows the difference."""
        return self._messages.every() if self._partial else BY_LIST

    def _watch(self, found: Event) -> None:
        self._growing = growing = StreamedMessage(found, self._every)
        before = self._position.growing
        if before is not None and before.event.raw == found.raw:
            growing.stale = before.stale
        self._position.growing = growing

    def _refresh(self, growing: StreamedMessage, idle: Deadline) -> bool:
        """Read the message again; return whether it has grown. What is to be given goes into ``_ready``.

        If it cannot be read, the next look tries again: no message is given half because of a short failure.
        """
        grew = self._messages.refresh(growing, idle, self._every)
        if grew is not None and growing.is_final:
            self._ready.append(growing.event)
            self._growing = None
            self._feed.put_back(growing.held)  # one of them may grow as well
        elif grew and self._partial:
            self._ready.append(growing.event)
        return bool(grew)

    def _hold(self, growing: StreamedMessage, event: Event, idle: Deadline) -> None:
        """Keep an event behind the growing message back. It may show that the message will not grow any more."""
        growing.held.append(event)
        if growing.is_followed_by(event) or growing.is_cut_by(event):
            growing.over = True
            self._refresh(growing, idle)
