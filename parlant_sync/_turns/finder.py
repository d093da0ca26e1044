"""The next turn in a session that no call of this object requested: how it is recognised, and the search for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from parlant_sync import errors
from parlant_sync._deadline import Deadline
from parlant_sync._polling.event_feed import EventFeed, FeedEnded
from parlant_sync._single_owner import SingleOwner
from parlant_sync._turns.starter import TurnStarter
from parlant_sync._turns.tracker import TurnFacts, TurnTracker
from parlant_sync.events import ANONYMOUS_TRACE, HUMAN_SOURCES, Event, Reply


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


class NextTurns:
    """What ``session.next_turn()`` does. For one thread at a time: a second one gets ConcurrencyError."""

    def __init__(self, starter: TurnStarter) -> None:
        self._starter = starter
        self._inside = SingleOwner()
        self._from: int | None = None  # where the next call looks
        self._seen: set[str] = set()  # the traces of turns before that

    def wait(self, start: int, deadline: Deadline) -> Reply:
        """The reply of the next turn. The first call looks from ``start`` on, later ones after the turn before."""
        starter = self._starter
        starter.check()
        if not self._inside.take():
            raise errors.ConcurrencyError(f"{starter.where}: another thread is inside next_turn()")
        try:
            finder = TurnFinder(starter.facts(deadline), starter.is_ours)
            finder.traces.update(self._seen)
            feed = starter.feed(start if self._from is None else self._from, deadline)
            try:
                found = self._find(feed, finder, deadline)
                feed.back_to(found.offset)
                turn = starter.turn(feed, found.tracker, deadline, request=found.request)
                try:
                    reply = turn.reply()
                except errors.AgentError as error:  # over as well: the next call must not find it again
                    self._go_on_after(error.partial, finder)
                    raise
            finally:
                feed.leave()
            self._go_on_after(reply, finder)
            return reply
        finally:
            self._inside.let_go()

    def _go_on_after(self, reply: Reply, finder: TurnFinder) -> None:
        self._seen = finder.traces | {event.trace_id for event in reply.events}
        self._from = reply.events[-1].offset + 1

    def _find(self, feed: EventFeed, finder: TurnFinder, deadline: Deadline) -> FoundTurn:
        starter = self._starter
        while True:
            with starter.using():
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
