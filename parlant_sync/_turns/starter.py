"""Starting turns: post and follow, trigger and follow, follow only; and the feeds that readers and turns begin with."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from parlant_sync import errors
from parlant_sync._api.posting import MessagePoster
from parlant_sync._api.rest import RestApi
from parlant_sync._api.retry import LEAST, unread
from parlant_sync._deadline import Deadline
from parlant_sync._http.transport import Failure
from parlant_sync._polling.event_feed import EventFeed
from parlant_sync._polling.event_hub import EventHub, LogPosition
from parlant_sync._polling.poller import Poller, Use
from parlant_sync._settings import Settings
from parlant_sync._turns.driver import TurnDriver
from parlant_sync._turns.streaming import MessageReader
from parlant_sync._turns.tracker import TurnFacts, TurnTracker
from parlant_sync._turns.transcript import Transcript
from parlant_sync._turns.turn_queue import UNATTENDED, TurnQueue, TurnTicket, TurnWatch, Wake
from parlant_sync.events import Event, Reply, ServerAbilities, SessionInfo
from parlant_sync.turn import Turn

logger = logging.getLogger(__name__)

# A trigger without guidelines may be answered after a minute, or by a 500, though the turn runs (WIRE.md).
_TRIGGER_ANSWER = 2.0
_TRIGGER_BEGIN = 10.0
# If the agent cannot be read within this time, its turns need a quiet period to be over.
_READ_AGENT = 5.0


def _created(text: object) -> datetime | None:
    return Event({"offset": 0, "creation_utc": text}).created


def _give_up(ticket: TurnTicket | None, feed: EventFeed | None) -> None:
    """The turn does not start: let the next one run, and take no more events."""
    if ticket is not None:
        ticket.release()
    if feed is not None:
        feed.leave()


class TurnStarter:
    """What the calls of one session begin with. Thread-safe."""

    def __init__(
        self,
        info: SessionInfo,
        *,
        api: RestApi,
        settings: Settings,
        hub: EventHub,
        poller: Poller,
        turn_queue: TurnQueue,
    ) -> None:
        self._session_id = session_id = info.id
        self._agent_id = info.agent_id
        self.abilities = ServerAbilities.of(info.raw)
        self.delivery = MessagePoster(session_id, api, poller.stop_signal)
        self.where = f"session {session_id} on {settings.base_url}"
        self.messages = MessageReader(api, session_id)
        self._api = api
        self._settings = settings
        self._hub = hub
        self._poller = poller
        self._posting_once: dict[str, threading.Event] = {}  # the calls with once=True that post now, by key
        self._turn_queue = turn_queue
        # Raises what has ended the session, if anything has; also in a forked child.
        self.check: Callable[[], None] = hub.check
        self._triggered: deque[Transcript] = deque(maxlen=16)  # what trigger() has started

    def using(self) -> Use:
        """For turns and readers, which need the poller."""
        self.check()
        return Use(self._poller)

    def visiting(self) -> Use:
        """For single requests, which do not start it."""
        self.check()
        return Use(self._poller, start=False)

    def feed(self, offset: int | None, deadline: Deadline | None = None, *, epoch: int | None = None) -> EventFeed:
        """A reader's place, from ``offset`` on; None: from what the poller has not yet seen."""
        api, session_id, settings = self._api, self._session_id, self._settings

        def lister(since: int) -> list[Event]:
            # A list is work, not waiting: it has the time of a request, but no more than its turn has left.
            most = settings.request_timeout
            limit = most if deadline is None else deadline.between(LEAST, most)
            try:
                return api.list_events(session_id, since, deadline=Deadline(limit), attempts=1)
            except errors.RateLimitedError as error:
                api.list_limiter.limited(error.retry_after)  # the pollers pause, too
                raise

        ask_again = self._poller.poll_now
        return EventFeed(self._hub, lister, settings.backlog_limit, offset=offset, epoch=epoch, ask_again=ask_again)

    def latest(self, deadline: Deadline | None = None) -> int:
        """The offset after the last event that the server has now. What the poller knows may be old.

        Polling begins there, if it has not begun.
        """
        most = self._settings.request_timeout
        limit = Deadline(most if deadline is None else deadline.between(LEAST, most))
        known = self._hub.latest()
        events = self._api.list_events(self._session_id, known, deadline=limit)
        latest = events[-1].offset + 1 if events else known
        self._hub.begin(latest)
        return latest

    def reader_from(self, since: int) -> tuple[EventFeed, bool]:
        """An independent reader from ``since`` on, and whether it has listed already.

        If polling has not begun, that list also says where the session's events end: polling begins there.
        """
        if self._hub.start is not None:
            return self.feed(since), False
        feed = self.feed(max(since - 1, 0))  # one more, so that a reader without new events learns the end as well
        end = feed.list_now(self.list_once)
        if end is not None or since == 0:
            self._hub.begin(end or 0)
        else:
            self.latest()
        feed.skip_to(since)
        return feed, True

    def list_once(self, since: int) -> list[Event]:
        """As ``history()``: tried three times within one ``request_timeout``."""
        return self._api.list_events(self._session_id, since)

    def note_posted(self, event: Event, place: LogPosition, deadline: Deadline, *, found: bool = False) -> None:
        """The server has stored ``event``. Checks whether its numbering went back, and if so, to which offset.

        ``place`` was the hub's before the post. ``found``: the event was found in the server's list, and may be from an
        earlier call with the same key.
        """
        self._hub.begin(event.offset)
        self._poller.cut_pause()  # it answers again, so there is no reason to wait
        if not self._hub.note_posted(event.offset, place):
            return
        start = self._start_of_numbering(event, deadline, found)
        if start is not None and self._hub.renumber(start, place):
            self._poller.poll_now()
            logger.info("session %s: offsets went back to %d; reading on from there", self._session_id, start)

    def _start_of_numbering(self, event: Event, deadline: Deadline, found: bool) -> int | None:
        """Return the first offset that the server has used again, or None, as far as this is known."""
        before = _created(self._hub.last_created)
        if found and (before is None or event.created is None or event.created <= before):
            return None  # an old message, found by a key that was used again
        limit = Deadline(deadline.between(LEAST, self._settings.request_timeout))
        try:
            held = self._api.list_events(self._session_id, 0, deadline=limit)
        except errors.ParlantSyncError as error:
            if not unread(error):
                raise
            logger.debug("session %s: cannot look for the start of the numbering: %s", self._session_id, error)
            held = []
        newer = [e.offset for e in held if before is not None and (e.created or before) > before]
        return min([event.offset, *newer])

    def post(self, message: str, arguments: Mapping[str, Any]) -> Event:
        """Post, and follow nothing."""
        with self.visiting():
            place = self._hub.place
            deadline = Deadline(self._settings.request_timeout)
            event, found = self.delivery.post(message, since=place.next, deadline=deadline, attempts=3, **arguments)
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
                    raise self._nothing_posted("another call with this key was still posting", started)
            yield
        finally:
            if self._posting_once.get(key) is mine:
                del self._posting_once[key]
            mine.set()

    def stream(
        self, message: str, arguments: Mapping[str, Any], deadline: Deadline, *, interrupt: bool = False
    ) -> Turn:
        """Post, and follow the turn that answers. ``interrupt``: without waiting for the turn that runs."""
        ticket: TurnTicket | None = None
        feed: EventFeed | None = None
        try:
            with self.using():
                ticket = self._enter(deadline, interrupt=interrupt)
                place = self._hub.place
                feed = self.feed(None, deadline)  # before the post, so that no event is missed
                event, found = self.delivery.post(message, since=place.next, deadline=deadline, **arguments)
                self.note_posted(event, place, deadline, found=found)
                feed.start_at(event.offset + 1)
                if found or (self._hub.start or 0) > event.offset + 1:
                    feed.back_to(event.offset + 1)  # its turn may have begun before this feed, or polling, did
                # If the session was closed meanwhile: the message is stored, and the turn says the rest.
                tracker = TurnTracker(event, self.facts(deadline))
                return self.turn(feed, tracker, deadline, request=event, ticket=ticket, posted_here=not found)
        except BaseException as error:
            _give_up(ticket, feed)
            if isinstance(error, errors.TransportError | errors.ApiError):
                self.check()  # if close() has cut the post short, that is the reason
            raise

    def follow(self, event: Event, deadline: Deadline) -> Turn:
        """The turn that answers a message posted before; takes no place in the queue."""
        self.check()
        self._check_held(event, deadline)
        tracker = TurnTracker(event, self.facts(deadline))
        self._hub.begin(event.offset)
        feed = self.feed(event.offset, deadline)
        feed.start_at(event.offset + 1)
        return self.turn(feed, tracker, deadline, request=event)

    def cancel(self, running: bool = True) -> None:
        """Stop the agent's turn, if one is ``running``."""
        with self.visiting():
            if not self.abilities.cancel:
                raise self.unsupported("cancel()", "4.0")
            if running:
                self._api.cancel_turn(self._session_id)

    def unsupported(self, feature: str, since: str) -> errors.UnsupportedByServer:
        return errors.UnsupportedByServer(
            f"{self.where}: {feature} needs Parlant {since} or newer; this server is {self.abilities.version}"
        )

    def facts(self, deadline: Deadline) -> TurnFacts:
        """What the end of a turn depends on. On 3.0 and 3.1, the first turn with an agent reads the agent."""
        if self.abilities.labels:
            return TurnFacts(bare_errors=self.abilities.cancel)
        limit = Deadline(deadline.between(LEAST, _READ_AGENT))
        return TurnFacts(staged=False, fluid=self._api.is_fluid(self._agent_id, deadline=limit))

    def _check_held(self, event: Event, deadline: Deadline) -> None:
        """An offset alone would follow a turn of this session that answers another message."""
        limit = Deadline(deadline.between(LEAST, self._settings.request_timeout))
        try:
            held = self._api.held(self._session_id, event, deadline=limit)
        except errors.ParlantSyncError as error:
            if not unread(error):
                raise
            logger.debug("session %s: cannot look for the message to follow: %s", self._session_id, error)
            return  # an outage passes, and is no reason not to wait
        if held is None or held.offset != event.offset:
            raise errors.ConfigurationError(
                f"{self.where} does not hold the message {event.id!r} at offset {event.offset}: call reply_to() of the "
                "session that it was posted to (or send it again, if the server has lost it)"
            )

    def trigger(self, guidelines: list[dict[str, Any]], deadline: Deadline) -> Turn:
        """Ask the agent to speak, and follow that turn. If the answer is a failure, the events decide."""
        body: dict[str, Any] = {"kind": "message", "source": "ai_agent"}
        if guidelines:
            body["guidelines"] = body["rules"] = guidelines  # 4.0 calls them rules; each version ignores the other name
        started = time.monotonic()
        ticket: TurnTicket | None = None
        feed: EventFeed | None = None
        try:
            with self.using():
                ticket = self._enter(deadline)
                place = self._hub.place
                feed = self.feed(None, deadline)
                feed.start_at(self._latest_in_time(deadline, started))
                failure = Failure()
                post_error: errors.ParlantSyncError | None = None
                trace: str | None = None
                limit = deadline.bound(None if guidelines else _TRIGGER_ANSWER)
                try:
                    event = self._api.create_event(
                        self._session_id,
                        body,
                        failure=failure,
                        read_timeout=None if limit is None else max(limit, 0.001),
                    )
                    if guidelines:
                        trace = event.trace_id
                        self.note_posted(event, place, deadline)
                        if event.offset < feed.offset:
                            feed.start_at(event.offset)  # of a new numbering
                except (errors.ServerError, errors.TransportError, errors.ProtocolError) as error:
                    if not failure.sent:
                        raise
                    post_error = error
                facts = self.facts(deadline)
                tracker = TurnTracker(None, facts, trace=trace, unannounced=bool(guidelines) and trace is None)
                turn = self.turn(feed, tracker, deadline, ticket=ticket, post_error=post_error)
                self._triggered.append(turn._driver.transcript)
                return turn
        except BaseException:
            _give_up(ticket, feed)
            raise

    def _enter(self, deadline: Deadline, *, interrupt: bool = False) -> TurnTicket:
        """Wait until the turn may begin. Raises what has ended the session meanwhile, and TurnTimeout."""
        if interrupt:
            return self._turn_queue.interrupt(deadline)
        started = time.monotonic()
        ticket = self._turn_queue.enter(deadline, self._watch)
        try:
            self.check()
        except BaseException:
            if ticket is not None:
                ticket.release()
            raise
        if ticket is None:
            why = "nothing was posted, because another turn was running all the time (interrupt=True does not wait)"
            raise self._nothing_posted(why, started)
        return ticket

    def _watch(self, ticket: TurnTicket, wake: Wake) -> TurnWatch | None:
        """Look whether the unattended turn of ``ticket`` is over; its further events go to ``wake``."""
        if ticket.running is None:
            return None
        tracker, offset = ticket.running
        watch = TurnWatch(tracker.anew(), offset, wake)
        self._hub.join(watch.mailbox, None, self._hub.place.epoch)  # before the list, so that no event is missed
        try:
            limit = Deadline(min(self._settings.request_timeout, UNATTENDED))
            watch.feed(self._api.list_events(self._session_id, offset, deadline=limit, attempts=1))
        except errors.ParlantSyncError as error:
            logger.debug("session %s: cannot see whether the turn before is over: %s", self._session_id, error)
        return watch

    def _nothing_posted(self, why: str, started: float) -> errors.TurnTimeout:
        return errors.TurnTimeout(
            f"{self.where}: {why}; wait longer, or use a session for each conversation",
            partial=Reply("", "empty", duration=time.monotonic() - started),
        )

    def _latest_in_time(self, deadline: Deadline, started: float) -> int:
        try:
            return self.latest(deadline)
        except errors.ParlantSyncError as error:
            if deadline.remaining() > LEAST or not unread(error):
                raise
            why = "nothing was posted, because the server did not answer in time where its events end"
            raise self._nothing_posted(why, started) from error

    def turn(
        self,
        feed: EventFeed,
        tracker: TurnTracker,
        deadline: Deadline,
        *,
        request: Event | None = None,
        ticket: TurnTicket | None = None,
        post_error: errors.ParlantSyncError | None = None,
        posted_here: bool = False,
    ) -> Turn:
        """A turn that is not over, to be driven by its caller."""
        driver = TurnDriver(
            api=self._api,
            session_id=self._session_id,
            poller=self._poller,
            feed=feed,
            tracker=tracker,
            messages=self.messages,
            deadline=deadline,
            request=request,
            ticket=ticket,
            post_error=post_error,
            begin_by=Deadline(_TRIGGER_BEGIN) if post_error is not None else None,
            posted_here=posted_here,
        )
        return Turn(driver, check=self._hub.check_process, cancel=self.cancel)

    def is_ours(self, event: Event) -> bool:
        """Whether a call of this object posted this message, or triggered the turn that begins with this event."""
        if event.kind == "message" and event.source != "ai_agent":
            return self.delivery.has_sent(event)
        begun = [transcript.tracker for transcript in self._triggered]
        return any(t.trace == event.trace_id or (t.trace is None and not t.over) for t in begun)
