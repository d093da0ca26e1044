"""Starting a turn: the queue of one session, in which one turn runs at a time, the post, and the feed of its events.

What readers begin with is here as well. ``other_turns.py`` has the turns that no post of the same call begins.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from parlant_sync import errors
from parlant_sync._api.posting import Draft, MessagePoster
from parlant_sync._api.rest import RestApi
from parlant_sync._api.retry import LEAST, unread
from parlant_sync._api.streaming import MessageReader
from parlant_sync._deadline import Deadline, get_in_time
from parlant_sync._polling.event_feed import EventFeed, Mailbox
from parlant_sync._polling.event_hub import EventHub, LogPosition
from parlant_sync._polling.poller import Poller, Use
from parlant_sync._settings import Settings
from parlant_sync._turns.driver import TurnDriver
from parlant_sync._turns.tracker import TurnFacts, TurnTracker
from parlant_sync.events import Event, Reply, ServerAbilities, SessionInfo

logger = logging.getLogger(__name__)

# A turn that no thread has waited in for this many seconds can be replaced, although it still runs at the server.
UNATTENDED = 2.0
# What wakes a waiting call: events of the session, or None if something else has changed.
Wake = queue.SimpleQueue[Sequence[Event] | None]
# If the agent cannot be read within this time, its turns need a quiet period to be over.
_READ_AGENT = 5.0


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
        watching: TurnWatch | None = None
        watched: weakref.ref[TurnTicket] | None = None
        try:
            self._queue.append(self._reference(mine))
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


def _created(text: object) -> datetime | None:
    return Event({"offset": 0, "creation_utc": text}).created


def give_up(ticket: TurnTicket | None, feed: EventFeed | None) -> None:
    """The turn does not start: let the next one run, and take no more events."""
    if ticket is not None:
        ticket.release()
    if feed is not None:
        feed.leave()


class TurnStarter:
    """What the calls of one session begin with. Thread-safe."""

    def __init__(self, info: SessionInfo, *, api: RestApi, settings: Settings, hub: EventHub, poller: Poller) -> None:
        self.session_id = session_id = info.id
        self._agent_id = info.agent_id
        self.abilities = ServerAbilities.of(info.raw)
        self.delivery = MessagePoster(session_id, api)
        self.where = f"session {session_id} on {settings.base_url}"
        self.messages = MessageReader(api, session_id)
        self.api = api
        self.settings = settings
        self.hub = hub
        self.poller = poller
        self._posting_once: dict[str, threading.Event] = {}  # the calls with once=True that post now, by key
        self._turn_queue = turn_queue = TurnQueue()
        hub.on_end(lambda _: turn_queue.close())  # refers to the queue alone: the hub outlives this object
        # Raises what has ended the session, if anything has; also in a forked child.
        self.check: Callable[[], None] = hub.check

    def using(self) -> Use:
        """Use the session for a turn or a reader, which need the poller."""
        self.check()
        return Use(self.poller)

    def using_also_closed(self) -> Use:
        """Use it for a turn that has begun: after the end of the session, it gives what has come before."""
        self.hub.check_process()
        return Use(self.poller)

    def visiting(self) -> Use:
        """Use it for a single request, which does not start the poller."""
        self.check()
        return Use(self.poller, start=False)

    def feed(self, offset: int | None, deadline: Deadline | None = None, *, epoch: int | None = None) -> EventFeed:
        """A reader's place, from ``offset`` on; None: from what the poller has not yet seen.

        When it lists, one request may take what is left until ``deadline``, but no longer than other requests.
        """
        api, session_id, settings = self.api, self.session_id, self.settings

        def lister(since: int) -> list[Event]:
            return api.list_events(session_id, since, deadline=deadline, attempts=1)

        ask_again = self.poller.poll_now
        return EventFeed(self.hub, lister, settings.backlog_limit, offset=offset, epoch=epoch, ask_again=ask_again)

    def latest(self, deadline: Deadline | None = None) -> int:
        """The offset after the last event that the server has now. What the poller knows may be old.

        Polling begins there, if it has not begun.
        """
        most = self.settings.request_timeout
        limit = Deadline(most if deadline is None else deadline.between(LEAST, most))
        known = self.hub.latest()
        events = self.api.list_events(self.session_id, known, deadline=limit)
        latest = events[-1].offset + 1 if events else known
        self.hub.begin(latest)
        return latest

    def reader_from(self, since: int) -> tuple[EventFeed, bool]:
        """An independent reader from ``since`` on, and whether it has listed already.

        If polling has not begun, that list also says where the session's events end: polling begins there.
        """
        if self.hub.start is not None:
            return self.feed(since), False
        feed = self.feed(max(since - 1, 0))  # one more, so that a reader without new events learns the end as well
        end = feed.list_now(self.list_once)
        if end is not None or since == 0:
            self.hub.begin(end or 0)
        else:
            self.latest()
        feed.skip_to(since)
        return feed, True

    def list_once(self, since: int) -> list[Event]:
        """As ``history()``: tried three times within one ``request_timeout``."""
        return self.api.list_events(self.session_id, since)

    def note_posted(self, event: Event, place: LogPosition, deadline: Deadline, *, found: bool = False) -> None:
        """The server has stored ``event``. Checks whether its numbering went back, and if so, to which offset.

        ``place`` was the hub's before the post. ``found``: the event was found in the server's list, and may be from an
        earlier call with the same key.
        """
        self.hub.begin(event.offset)
        self.poller.cut_pause()  # it answers again, so there is no reason to wait
        if not self.hub.note_posted(event.offset, place):
            return
        start = self._start_of_numbering(event, deadline, found)
        if start is not None and self.hub.renumber(start, place):
            self.poller.poll_now()
            logger.info("session %s: offsets went back to %d; reading on from there", self.session_id, start)

    def _start_of_numbering(self, event: Event, deadline: Deadline, found: bool) -> int | None:
        """Return the first offset that the server has used again, or None, as far as this is known."""
        before = _created(self.hub.last_created)
        if found and (before is None or event.created is None or event.created <= before):
            return None  # an old message, found by a key that was used again
        limit = Deadline(deadline.between(LEAST, self.settings.request_timeout))
        try:
            held = self.api.list_events(self.session_id, 0, deadline=limit)
        except errors.ParlantSyncError as error:
            if not unread(error):
                raise
            logger.debug("session %s: cannot look for the start of the numbering: %s", self.session_id, error)
            held = []
        newer = [e.offset for e in held if before is not None and (e.created or before) > before]
        return min([event.offset, *newer])

    def post(self, draft: Draft) -> Event:
        """Post, and follow nothing."""
        with self.visiting():
            place = self.hub.place
            deadline = Deadline(self.settings.request_timeout)
            event, found = self.delivery.post(draft, since=place.next, deadline=deadline, attempts=3)
            self.note_posted(event, place, deadline, found=found)
            return event

    @contextlib.contextmanager
    def alone_with(self, key: str, deadline: Deadline) -> Iterator[None]:
        """Wait until no other call with ``once=True`` posts under ``key``."""
        mine = threading.Event()
        started = time.monotonic()
        try:
            while (other := self._posting_once.setdefault(key, mine)) is not mine:  # setdefault() is atomic
                if not other.wait(deadline.bound(None)):
                    raise self.nothing_posted("another call with this key was still posting", started)
            yield
        finally:
            if self._posting_once.get(key) is mine:
                del self._posting_once[key]
            mine.set()

    def begin(self, draft: Draft, deadline: Deadline, *, interrupt: bool = False) -> TurnDriver:
        """Post, and follow the turn that answers. The caller has the session in use.

        ``interrupt``: without waiting for the turn that runs.
        """
        ticket: TurnTicket | None = None
        feed: EventFeed | None = None
        try:
            ticket = self.enter(deadline, interrupt=interrupt)
            place = self.hub.place
            feed = self.feed(None, deadline)  # before the post, so that no event is missed
            event, found = self.delivery.post(draft, since=place.next, deadline=deadline)
            self.note_posted(event, place, deadline, found=found)
            feed.start_at(event.offset + 1)
            if found or (self.hub.start or 0) > event.offset + 1:
                feed.back_to(event.offset + 1)  # its turn may have begun before this feed, or polling, did
            # If the session was closed meanwhile: the message is stored, and the turn says the rest.
            tracker = TurnTracker(event, self.facts(deadline))
            return TurnDriver(self, feed, tracker, deadline, request=event, ticket=ticket, posted_here=not found)
        except BaseException as error:
            give_up(ticket, feed)
            if isinstance(error, errors.TransportError | errors.ApiError):
                self.check()  # if close() has cut the post short, that is the reason
            raise

    def cancel(self, running: bool = True) -> None:
        """Stop the agent's turn, if one is ``running``."""
        with self.visiting():
            if not self.abilities.cancel:
                raise self.unsupported("cancel()", "4.0")
            if running:
                self.api.cancel_turn(self.session_id)

    def unsupported(self, feature: str, since: str) -> errors.UnsupportedByServer:
        return errors.UnsupportedByServer(
            f"{self.where}: {feature} needs Parlant {since} or newer; this server is {self.abilities.version}"
        )

    def facts(self, deadline: Deadline) -> TurnFacts:
        """What the end of a turn depends on. On 3.0 and 3.1, the first turn with an agent reads the agent."""
        if self.abilities.labels:
            return TurnFacts(bare_errors=self.abilities.cancel)
        limit = Deadline(deadline.between(LEAST, _READ_AGENT))
        return TurnFacts(staged=False, fluid=self.api.is_fluid(self._agent_id, deadline=limit))

    def enter(self, deadline: Deadline, *, interrupt: bool = False) -> TurnTicket:
        """Wait until the turn may begin. Raises what has ended the session meanwhile, and TurnTimeout."""
        if interrupt:
            return self._turn_queue.interrupt(deadline)
        started = time.monotonic()
        ticket = self._turn_queue.enter(deadline, self._watch)
        if ticket is None:
            self.check()
            why = "nothing was posted, because another turn was running all the time (interrupt=True does not wait)"
            raise self.nothing_posted(why, started)
        return ticket

    def _watch(self, ticket: TurnTicket, wake: Wake) -> TurnWatch | None:
        """Look whether the unattended turn of ``ticket`` is over; its further events go to ``wake``."""
        if ticket.running is None:
            return None
        tracker, offset = ticket.running
        watch = TurnWatch(tracker.anew(), offset, wake)
        self.hub.join(watch.mailbox, None, self.hub.place.epoch)  # before the list, so that no event is missed
        try:
            limit = Deadline(min(self.settings.request_timeout, UNATTENDED))
            watch.feed(self.api.list_events(self.session_id, offset, deadline=limit, attempts=1))
        except errors.ParlantSyncError as error:
            logger.debug("session %s: cannot see whether the turn before is over: %s", self.session_id, error)
        return watch

    def nothing_posted(self, why: str, started: float) -> errors.TurnTimeout:
        return errors.TurnTimeout(
            f"{self.where}: {why}; wait longer, or use a session for each conversation",
            partial=Reply("", "empty", duration=time.monotonic() - started),
        )
