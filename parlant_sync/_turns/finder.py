"""Finds the next turn in a session's events that no call of this object requested. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from parlant_sync._deadline import Deadline
from parlant_sync._turns.tracker import TurnFacts, TurnTracker
from parlant_sync.events import ANONYMOUS_TRACE, HUMAN_SOURCES, Event


class FoundTurn(NamedTuple):
    """``tracker`` is to be fed from ``offset`` on; ``request`` is the customer's message, if there is one."""

    tracker: TurnTracker
    offset: int
    request: Event | None = None


class TurnFinder:
    """Fed events in offset order, it skips the turns that ``is_ours`` recognises, until another one begins."""

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
