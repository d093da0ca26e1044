"""When a turn begins, what belongs to it, and when it is over: a pure state machine, without I/O and without a clock.

The first ``ready`` is not the end, and the first message is not either. The facts are in WIRE.md ("One turn"), measured
on Parlant 3.0 to 3.3; every rule here is held against recordings of those servers (tests/traces).
"""

from __future__ import annotations

from parlant_sync.events import ANONYMOUS_TRACE, HUMAN_SOURCES, Event


class TurnTracker:
    """Told the events after a message in offset order, it knows the turn that answers it. Not thread-safe.

    ``request`` is the customer's message; None stands for a turn that nobody asked for (``trigger()``), which is told
    by ``trace``, or where that is None too, by the first ``acknowledged``; ``unannounced``: by its first event, for a
    turn with guidelines has no ``acknowledged``.
    """

    def __init__(self, request: Event | None = None, *, trace: str | None = None, unannounced: bool = False) -> None:
        self._arguments = (request, trace, unannounced)
        own = request.trace_id if request is not None else ""
        self._own_trace = "" if own == ANONYMOUS_TRACE else own
        self._newer_message = False
        self._left: set[str] = set()
        self.trace: str | None = trace
        self._unannounced = unannounced
        self.over = False
        self.human: Event | None = None
        self.error: Event | None = None
        self.restarts = 0
        self.events: list[Event] = []
        self._message_since_ready = False
        self._answered = False
        self._settled = False

    def anew(self) -> TurnTracker:
        """One for the same turn, to be told everything again."""
        request, trace, unannounced = self._arguments
        return TurnTracker(request, trace=trace, unannounced=unannounced)

    @property
    def looks_unfinished(self) -> bool:
        """Over without an answer, or without a plain ``ready`` after it: 3.x sends an ``error`` after such an end."""
        return self.over and self.error is None and self.human is None and not self._settled

    def feed(self, event: Event) -> bool:
        """Take the next event; True where it belongs to the turn. After the end only an ``error`` still counts."""
        if self.over:
            return self._feed_late(event)
        if self.trace is None:
            return self._feed_waiting(event)
        if event.trace_id == self.trace:
            return self._feed_own(event)
        if self._begins(event):
            # A newer turn without a word from ours: 3.0 just stops a turn between two of its messages.
            self._leave()
            return self._begin(event)
        self._notice_newer_message(event)
        return False

    def _begins(self, event: Event) -> bool:
        return (
            event.status == "acknowledged"
            and event.source == "ai_agent"
            and event.trace_id not in self._left
            and event.trace_id != ANONYMOUS_TRACE
        )

    def _is_own_trace(self, trace: str) -> bool:
        # 3.0 puts a suffix behind the trace of the message: "abc" and "abc::process".
        return trace == self._own_trace or trace.startswith(self._own_trace + "::")

    def _notice_newer_message(self, event: Event) -> None:
        if event.kind == "message" and event.source == "customer":
            self._newer_message = True

    def _feed_waiting(self, event: Event) -> bool:
        if event.kind == "message" and event.source in HUMAN_SOURCES:
            self.human = event
            self.over = True
            self.events.append(event)
            return True
        if self._unannounced and event.source == "ai_agent" and event.trace_id != ANONYMOUS_TRACE:
            self.trace = event.trace_id
            return self._feed_own(event)
        if self._begins(event):
            anyone = not self._own_trace or self._newer_message or bool(self._left)
            if anyone or self._is_own_trace(event.trace_id):
                return self._begin(event)
        self._notice_newer_message(event)
        return False

    def _begin(self, event: Event) -> bool:
        self.trace = event.trace_id
        self.events = [event]
        self._message_since_ready = False
        self._answered = False
        self._settled = False
        return True

    def _leave(self) -> None:
        if self.trace is not None:
            self._left.add(self.trace)
        self.trace = None
        self.events = []
        self.restarts += 1

    def _feed_own(self, event: Event) -> bool:
        self.events.append(event)
        if event.kind == "message":
            self._message_since_ready = True
            self._settled = False
            self._answered = self._answered or not event.is_preamble
        elif event.status == "error":
            self.error = event
            self.over = True
        elif event.status == "cancelled":
            self._leave()
        elif event.status == "ready":
            self._feed_ready(event)
        elif event.status in ("typing", "processing"):
            self._settled = False  # it meant to say more
        return True

    def _feed_ready(self, event: Event) -> None:
        if event.stage == "completed" or not self._message_since_ready:
            self.over = True
        else:
            self._settled = self._answered
        self._message_since_ready = False

    def _feed_late(self, event: Event) -> bool:
        if self.error is None and event.status == "error" and event.trace_id == self.trace:
            self.error = event
            self.events.append(event)
            return True
        return False
