"""Turns that no post of the same call begins: of a message posted before, of a trigger, or of somebody else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from parlant_sync import errors
from parlant_sync._api.posting import remember
from parlant_sync._api.retry import LEAST, unread
from parlant_sync._deadline import Deadline
from parlant_sync._http.transport import Failure
from parlant_sync._polling.event_feed import EventFeed, FeedEnded
from parlant_sync._single_owner import SingleOwner
from parlant_sync._turns.driver import TurnDriver
from parlant_sync._turns.starter import TurnStarter, TurnTicket, give_up
from parlant_sync._turns.tracker import Transcript, TurnFacts, TurnTracker
from parlant_sync.events import ANONYMOUS_TRACE, HUMAN_SOURCES, Event, Reply

logger = logging.getLogger(__name__)

# A trigger without guidelines may be answered after a minute, or by a 500, though the turn runs (WIRE.md).
_TRIGGER_ANSWER = 2.0
# So many triggered turns are kept whole.
_FOLLOWED = 16


class FoundTurn(NamedTuple):
    """``tracker`` is to be fed from ``offset`` on; ``request`` is the customer's message, if there is one."""

    tracker: TurnTracker
    offset: int
    request: Event | None = None


class TurnFinder:
    """Fed events in offset order, it skips the turns that ``is_ours`` recognises, until another one begins. No I/O."""

    def __init__(self, facts: TurnFacts, is_ours: Callable[[Event], bool]) -> None:
        self.traces: set[str] = set()  # of turns that are over or skipped; their events can still arrive
        self.quiet = Deadline(None)  # when to call look()
        self._facts = facts
        self._is_ours = is_ours
        self._skipped: TurnTracker | None = None  # a turn of ours that is running
        self._other: Event | None = None  # another client's message that came meanwhile

    def feed(self, event: Event) -> FoundTurn | None:
        skipped = self._skipped
        if skipped is None:
            return self._begin(event)
        if skipped.feed(event):
            self.traces.add(event.trace_id)
            self.quiet = Deadline(skipped.quiet_for)
        elif event.kind == "message" and event.source == "customer" and not self._is_ours(event):
            self._other = event
        return self._after_skipped()

    def look(self) -> FoundTurn | None:
        """Call it if no event has come: a quiet period may have passed."""
        if self._skipped is not None and self.quiet.expired():
            self._skipped.end_quiet()
        return self._after_skipped()

    def _after_skipped(self) -> FoundTurn | None:
        skipped, other = self._skipped, self._other
        if skipped is None or not skipped.over:
            return None
        self._skipped = self._other = None
        self.quiet = Deadline(None)
        if other is None or skipped.restarts:  # a turn that began again answers both messages
            return None
        return FoundTurn(TurnTracker(other, self._facts), other.offset + 1, other)

    def _begin(self, event: Event) -> FoundTurn | None:
        tracker: TurnTracker | None = None
        if event.kind == "message" and event.source == "customer":
            tracker = TurnTracker(event, self._facts)
            found = FoundTurn(tracker, event.offset + 1, event)
        elif event.kind == "message" and event.source in HUMAN_SOURCES:
            if self._is_ours(event):
                return None
            return FoundTurn(TurnTracker(None, self._facts), event.offset)
        elif event.source != "ai_agent" or event.trace_id in self.traces or event.trace_id == ANONYMOUS_TRACE:
            return None
        elif event.status == "acknowledged":
            tracker = TurnTracker(None, self._facts)
            found = FoundTurn(tracker, event.offset)
        elif event.status == "typing" or event.kind == "message":
            tracker = TurnTracker(None, self._facts, unannounced=True)  # guidelines start such a turn
            found = FoundTurn(tracker, event.offset)
        else:
            return None
        if not self._is_ours(event):
            return found
        self._skipped = tracker
        if found.request is None:
            return self.feed(event)
        return None


class OtherTurns:
    """What ``reply_to()``, ``trigger()`` and ``next_turn()`` of one session do. Thread-safe."""

    def __init__(self, starter: TurnStarter) -> None:
        self._starter = starter
        self._triggered: list[Transcript] = []  # the last that trigger() has started
        self._asked: list[TurnTracker] = []  # stand for those that it is starting
        self._spoken: dict[str | None, None] = {}  # the traces of earlier ones
        self._inside = SingleOwner()  # next()
        self._from: tuple[int, int] | None = None  # where its next call looks: an offset, and its numbering
        self._seen: set[str] = set()  # the traces of turns before that

    def follow(self, event: Event, deadline: Deadline) -> TurnDriver:
        """The turn that answers a message posted before; takes no place in the queue."""
        starter = self._starter
        starter.check()
        self._check_held(event, deadline)
        tracker = TurnTracker(event, starter.facts(deadline))
        starter.hub.begin(event.offset)
        feed = starter.feed(event.offset, deadline)
        feed.start_at(event.offset + 1)
        return TurnDriver(starter, feed, tracker, deadline, request=event)

    def _check_held(self, event: Event, deadline: Deadline) -> None:
        """An offset alone would follow a turn of this session that answers another message."""
        starter = self._starter
        try:
            held = starter.api.held(starter.session_id, event, deadline=deadline)
        except errors.ParlantSyncError as error:
            if not unread(error):
                raise
            logger.debug("session %s: cannot look for the message to follow: %s", starter.session_id, error)
            return  # an outage passes, and is no reason not to wait
        if held is None or held.offset != event.offset:
            raise errors.ConfigurationError(
                f"{starter.where} does not hold the message {event.id!r} at offset {event.offset}: call reply_to() of "
                "the session that it was posted to (or send it again, if the server has lost it)"
            )

    def trigger(self, guidelines: list[dict[str, Any]], deadline: Deadline) -> TurnDriver:
        """Ask the agent to speak, and follow that turn. If the answer is a failure, the events decide.

        The caller has the session in use, also for ``next()``.
        """
        body: dict[str, Any] = {"kind": "message", "source": "ai_agent"}
        if guidelines:
            body["guidelines"] = body["rules"] = guidelines  # 4.0 calls them rules; each version ignores the other name
        starter, started = self._starter, time.monotonic()
        ticket: TurnTicket | None = None
        feed: EventFeed | None = None
        asked = TurnTracker()
        try:
            ticket = starter.enter(deadline)
            self._asked.append(asked)  # its events may be read before its answer
            place = starter.hub.place
            feed = starter.feed(None, deadline)
            feed.start_at(self._latest_in_time(deadline, started))
            failure = Failure()
            post_error: errors.ParlantSyncError | None = None
            trace: str | None = None
            limit = deadline.bound(None if guidelines else _TRIGGER_ANSWER)
            try:
                event = starter.api.create_event(
                    starter.session_id,
                    body,
                    failure=failure,
                    read_timeout=None if limit is None else max(limit, 0.001),
                )
                if guidelines:
                    trace = event.trace_id
                    starter.note_posted(event, place, deadline)
                    if event.offset < feed.offset:
                        feed.start_at(event.offset)  # of a new numbering
            except (errors.ServerError, errors.TransportError, errors.ProtocolError) as error:
                if not failure.sent:
                    raise
                post_error = error.with_traceback(None)  # kept: see TurnDriver.drive()
            facts = starter.facts(deadline)
            tracker = TurnTracker(None, facts, trace=trace, unannounced=bool(guidelines) and trace is None)
            driver = TurnDriver(starter, feed, tracker, deadline, ticket=ticket, post_error=post_error)
            self._triggered.append(driver.transcript)
            for earlier in self._triggered[:-_FOLLOWED]:
                remember(self._spoken, earlier.tracker.trace, None)
            del self._triggered[:-_FOLLOWED]
            return driver
        except BaseException:
            give_up(ticket, feed)
            raise
        finally:
            asked.over = True
            if asked in self._asked:
                self._asked.remove(asked)

    def _latest_in_time(self, deadline: Deadline, started: float) -> int:
        try:
            return self._starter.latest(deadline)
        except errors.ParlantSyncError as error:
            if deadline.remaining() > LEAST or not unread(error):
                raise
            why = "nothing was posted, because the server did not answer in time where its events end"
            raise self._starter.nothing_posted(why, started) from error

    def _is_ours(self, event: Event) -> bool:
        """Whether a call of this object posted this message, or triggered the turn that begins with this event."""
        if event.kind == "message" and event.source != "ai_agent":
            return self._starter.delivery.has_sent(event)
        # Those that are starting are looked at first: they become the others.
        begun = [*self._asked, *[transcript.tracker for transcript in self._triggered]]
        known = event.trace_id in self._spoken
        return known or any(t.trace == event.trace_id or (t.trace is None and not t.over) for t in begun)

    def next(self, start: int, deadline: Deadline) -> Reply:
        """The reply of the next turn. The first call looks from ``start`` on, later ones after the turn before.

        For one thread at a time: a second one gets ConcurrencyError.
        """
        starter = self._starter
        try:
            if not self._inside.take():  # in the ``try``, because an interrupt may come after it was taken
                raise errors.ConcurrencyError(f"{starter.where}: another thread is inside next_turn()")
            finder = TurnFinder(starter.facts(deadline), self._is_ours)
            finder.traces.update(self._seen)
            offset, epoch = self._from or (start, 0)  # if the numbering went back since, the feed goes back with it
            feed = starter.feed(offset, deadline, epoch=epoch)
            try:
                found = self._find(feed, finder, deadline)
                feed.back_to(found.offset)
                reply = TurnDriver(starter, feed, found.tracker, deadline, request=found.request).run()
            except errors.AgentError as error:  # over as well: the next call must not find it again
                self._go_on_after(error.partial, finder, feed)
                raise
            finally:
                feed.leave()
            self._go_on_after(reply, finder, feed)
            return reply
        finally:
            self._inside.let_go()

    def _go_on_after(self, reply: Reply, finder: TurnFinder, feed: EventFeed) -> None:
        self._seen = finder.traces | {event.trace_id for event in reply.events}
        self._from = min(reply.events[-1].offset + 1, feed.offset), feed.epoch

    def _find(self, feed: EventFeed, finder: TurnFinder, deadline: Deadline) -> FoundTurn:
        starter = self._starter
        while True:
            try:
                event = feed.get(Deadline.earliest(finder.quiet, deadline))
            except FeedEnded as end:
                raise errors.copy_for_waiter(end.cause) from end.cause
            found = finder.feed(event) if event is not None else finder.look()
            if found is not None:
                return found
            if event is None and deadline.expired():
                raise errors.TurnTimeout(
                    f"{starter.where}: no turn came that no call of this object requested; next_turn() looks again",
                    partial=Reply("", "empty"),
                )
