"""``iter_events()``: an iterator over a session's events, in offset order, each once."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

from parlant_sync import errors
from parlant_sync.api import UNREAD, Api
from parlant_sync.deadline import Deadline
from parlant_sync.events import Event
from parlant_sync.feed import Feed, FeedEnd
from parlant_sync.poller import Poller

# How often a streamed message is read again, in seconds, where its growth is to be given, and where not.
GROWTH_TICK = 0.25
HOLD_TICK = 1.0
# A streamed message that has not grown for so long will not: its server was stopped in the middle of it (WIRE.md).
STALE = 60.0
_ENDINGS = frozenset({"ready", "cancelled", "error"})


class Position:
    """How far a reader has given events out; all default readers of a session share one.

    The thread that is in a reader's ``next`` claims it; a claim is only ever tried, never waited for. No lock: an
    interrupt could come between its acquire and the ``try`` that releases it. The claim of a thread is its own again.
    """

    __slots__ = ("claims", "epoch", "given", "offset")

    def __init__(self, offset: int, epoch: int = 0) -> None:
        self.claims: dict[str, int] = {}  # setdefault() is atomic; the rest is written by the claimant alone
        self.offset = offset  # of the next event to give
        self.epoch = epoch
        self.given: int | None = None  # the event given last, until the caller asks for the following one

    def claim(self) -> bool:
        me = threading.get_ident()
        return self.claims.setdefault("by", me) == me

    def taken(self) -> bool:
        """Whether another thread is inside."""
        me = threading.get_ident()
        return self.claims.get("by", me) != me

    def let_go(self) -> None:
        if not self.taken():
            self.claims = {}

    @property
    def cursor(self) -> int:
        given = self.given
        return self.offset if given is None else given


class EventReader:
    """The events of a session as they come. An iterator, and a context manager whose end is ``close()``.

    For one thread at a time: a second one gets ConcurrencyError. ``next`` raises StopIteration when no event came for
    ``timeout`` seconds or the session was closed, NotFoundError, AuthenticationError or PermissionDeniedError when it
    is gone or no longer allowed. Outages of the server do not end it.
    """

    def __init__(
        self,
        *,
        api: Api,
        session_id: str,
        poller: Poller,
        feed: Feed,
        position: Position,
        check: Callable[[], None],
        timeout: float | None,
        kinds: frozenset[str] | None,
        sources: frozenset[str] | None,
        partial: bool,
    ) -> None:
        self._api = api
        self._session_id = session_id
        self._poller = poller
        self._feed = feed
        self._position = position
        self._check = check
        self._timeout = timeout
        self._kinds = kinds
        self._sources = sources
        self._partial = partial
        self._pid = os.getpid()
        self._done = False
        self._listed = False
        self._ready: deque[Event] = deque()  # to be given before the feed is asked again
        self._growing: Event | None = None
        self._held: deque[Event] = deque()  # came after the growing message
        self._grown = Deadline(None)
        self._turn_over = False  # that of the growing message

    @property
    def cursor(self) -> int:
        """The offset to resume from after a restart: of the event given last, until the following one is asked for.

        Saved after each event was dealt with, and given as ``since``, it repeats one event rather than losing one.
        """
        return self._position.cursor

    def close(self) -> None:
        """End the iteration. Idempotent; from any thread."""
        self._done = True
        if self._pid == os.getpid():
            self._feed.close()

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> EventReader:
        return self

    def __next__(self) -> Event:
        if self._done:
            raise StopIteration
        if self._pid != os.getpid():
            self._check()
        position = self._position
        try:
            if not position.claim():
                raise errors.ConcurrencyError(
                    f"another thread is reading session {self._session_id} by this reader; "
                    "open one of its own with iter_events(since=...)"
                )
            position.given = None
            event = self._next()
            given = event.offset
            following = position.offset if event.is_partial and self._partial else given + 1
        except errors.ConcurrencyError:
            raise
        except StopIteration:
            position.let_go()
            self.close()
            raise
        except FeedEnd as end:
            position.let_go()
            self.close()
            if isinstance(end.cause, errors.SessionClosed):
                raise StopIteration from None
            raise errors.copy_for_waiter(end.cause) from end.cause
        except BaseException:
            # Whatever was taken and not given is listed again.
            self._ready.clear()
            self._drop_growth()
            if not self._done:
                self._feed.back_to(position.offset)
            position.let_go()
            raise
        # Nothing but stores from here on: an interrupt comes at calls only, and must not part the event from its place.
        position.offset = following
        position.given = given
        position.claims = {}
        return event

    def _wanted(self, event: Event) -> bool:
        return (self._kinds is None or event.kind in self._kinds) and (
            self._sources is None or event.source in self._sources
        )

    def _next(self) -> Event:
        position, feed = self._position, self._feed
        # Another default reader may have given events out since, or may know of a new numbering.
        if feed.epoch == position.epoch:
            if position.offset > feed.offset:
                feed.skip_to(position.offset)
        elif feed.epoch > position.epoch:
            position.epoch, position.offset = feed.epoch, feed.offset
        idle = Deadline(self._timeout)
        while True:
            if self._ready:
                event = self._ready.popleft()
                if self._filtered(event):
                    continue
                return event
            found = feed.pop() if self._growing is None else None
            if found is None:
                found = self._wait(idle)
                if self._ready:
                    continue
                if found is None:
                    raise StopIteration
            if feed.epoch != position.epoch:
                position.epoch, position.offset = feed.epoch, found.offset
            idle = Deadline(self._timeout)
            if self._growing is not None:
                self._hold(found)
            elif self._filtered(found):
                continue
            elif found.is_partial:
                self._growing = found
                self._grown = Deadline(STALE)
                if self._partial:
                    return found
            else:
                return found

    def _filtered(self, event: Event) -> bool:
        if self._wanted(event):
            return False
        self._position.offset = event.offset + 1
        return True

    def _wait(self, idle: Deadline) -> Event | None:
        """The feed's next event; None when none came for too long, or when something has become ready meanwhile."""
        self._check()
        self._poller.use()
        try:
            if self._timeout == 0:
                return self._listed_now()
            while True:
                growing = self._growing
                if growing is None:
                    return self._feed.get(idle)
                tick = GROWTH_TICK if self._partial and self._api.single_reads else HOLD_TICK
                found = self._feed.get(Deadline(idle.bound(tick)))
                if found is not None:
                    return found
                if self._watch_growth(growing):
                    idle = Deadline(self._timeout)
                if self._ready or idle.expired():
                    return None
        finally:
            self._poller.unuse()

    def _listed_now(self) -> Event | None:
        if not self._listed:
            self._listed = True
            self._feed.list_now(Deadline(self._api.transport.settings.request_timeout))
        return self._feed.pop()

    # -- streamed messages

    def _watch_growth(self, growing: Event) -> bool:
        """Read the message again; True where it has grown. What is to be given lands in ``_ready``."""
        try:
            now = self._api.reread(self._session_id, growing)
        except UNREAD:
            return False  # the next tick tries again: a message is not given half for a passing trouble
        grew = now.raw != growing.raw
        if grew:
            self._grown = Deadline(STALE)
            self._growing = now
        if not now.is_partial or self._turn_over or self._grown.expired():
            self._end_growth(now)
        elif grew and self._partial:
            self._ready.append(now)
        return grew

    def _hold(self, event: Event) -> None:
        """An event behind the growing message: it waits, and may say that the message's turn is over."""
        growing = self._growing
        assert growing is not None
        self._held.append(event)
        own = event.trace_id == growing.trace_id
        if (own and (event.status in _ENDINGS or event.kind == "message")) or (
            not own and event.status == "acknowledged"
        ):
            self._turn_over = True
            self._watch_growth(growing)

    def _end_growth(self, last: Event) -> None:
        self._ready.append(last)
        self._ready.extend(self._held)
        self._drop_growth()

    def _drop_growth(self) -> None:
        self._growing = None
        self._turn_over = False
        self._held.clear()
