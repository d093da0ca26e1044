"""What the events of a turn mean: when it begins and is over (``TurnTracker``), and what it said (``Transcript``).

A state machine without I/O. The rule is WIRE.md, "When a turn is over". tests/traces has recordings of five server
versions; each is a test of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from parlant_sync._api.streaming import BY_LIST, StreamedMessage
from parlant_sync.events import ANONYMOUS_TRACE, HUMAN_SOURCES, Event, Outcome, Reply, Value

# If nothing more comes on the turn's trace for this many seconds, the turn is over:
# after a `ready` that may end the turn, or only the part for a preamble, which this turn left out; and after a
# `cancelled` that may be an older turn's
EMPTY_QUIET = 3.0
HOOK_QUIET = 10.0  # after the message of a hook, which may have stopped the engine
TOOL_QUIET = 10.0  # after a `ready` while tools may run: a tool's, or the end of a turn that called none
_TOOL_STAGES = frozenset({"Fetching data", "Considering tools"})
_NOT_THE_AGENT = frozenset({"system", "customer", "customer_ui"})


class TurnFacts(NamedTuple):
    """What must be known of the server and the agent to see the end of a turn.

    ``staged``: the server marks the end (3.2 and later). ``fluid``: the agent's composition mode, needed only if the
    server is not staged; None if it is not known. ``bare_errors``: the engine's ``error`` may have no data, come alone
    and be the end (4.0, from the engine "compass").
    """

    staged: bool = True
    fluid: bool | None = None
    bare_errors: bool = False


STAGED = TurnFacts()

# What an event is in its turn. "message": the agent's, or a human's answer. "other": all that says nothing to a caller.
Part = Literal["status", "message", "preamble", "tool", "other"]


class TurnTracker:
    """Fed the events after a message in offset order, it finds the turn that answers the message. Not thread-safe.

    ``request`` is the customer's message. None means a turn that no message of ours requested: the turn of ``trace``,
    or the next one that is acknowledged, or (``unannounced``) the next event of the agent begins it. The turn that
    guidelines start has no ``acknowledged``, so it is recognised by one of the last two.
    """

    def __init__(
        self,
        request: Event | None = None,
        facts: TurnFacts = STAGED,
        *,
        trace: str | None = None,
        unannounced: bool = False,
    ) -> None:
        self._arguments = (request, facts, trace, unannounced)
        self._facts = facts
        own = request.trace_id if request is not None else ""
        self._own_trace = "" if own == ANONYMOUS_TRACE else own
        self._newer: list[str] = []  # the traces of newer customer messages
        self._newer_answered = 0  # by the turn of `trace`: it answers all messages up to one of them
        self._left: set[str] = set()
        self._unannounced = unannounced
        self._prompted = trace is not None or unannounced
        self.over = False
        self.cancelled = False  # stopped from outside
        self.human: Event | None = None
        self.error: Event | None = None
        self.refusal: Mapping[str, Any] | None = None  # of the server's cost control
        self.restarts = 0
        # Seconds. If nothing more comes on the trace for so long after the last event, call end_quiet().
        self.quiet_for: float | None = None
        self._begin_trace(trace)

    def _begin_trace(self, trace: str | None) -> None:
        self.trace = trace
        self.events: list[Event] = []
        self.ready: Event | None = None  # the last one
        self._working = self._prompted  # the engine has begun: no hook speaks before it any more
        self._answering = self._prompted  # the part of the answer has begun
        self._answered = False
        self._stopped = False  # this may be an older message's turn, and ours is about to begin
        self._message_since_ready = False
        self._last: Part | None = None
        self._in_tools = False  # tools run, which may send any status themselves
        # The turn has ended in the usual way. After another end an ``error`` may follow, as 3.x sends it.
        self.looks_done = False

    def anew(self) -> TurnTracker:
        """A fresh tracker for the same turn. Feed it all events again."""
        request, facts, trace, unannounced = self._arguments
        return TurnTracker(request, facts, trace=trace, unannounced=unannounced)

    def feed(self, event: Event) -> Part | None:
        """Take the next event; return what it is in the turn, or None if it is not of it.

        After the end, only the engine's ``error`` is.
        """
        trace, status = event.trace_id, event.status
        kind = event.kind if status is None else "status"
        source = event.source if kind == "message" else ""
        if self.over:
            return self._feed_late(event, status, trace)
        if self.trace is None:
            return self._feed_waiting(event, status, trace, source)
        if trace != self.trace:
            return self._feed_foreign(event, status, trace, source)
        self.events.append(event)
        if source in _NOT_THE_AGENT:
            return "other"  # 4.0: a summary of the session, not a part of the answer
        self.quiet_for = None
        part: Part = "status" if kind == "status" else "other"
        if kind == "message":
            part = self._feed_message(event)
        elif kind == "tool":
            part = "tool"
            self._in_tools = False  # results come when all tools have run
        elif status == "ready":
            self.ready = event
            if not self._stopped:
                self._feed_ready(event)
        elif status in ("typing", "processing"):
            stage = event.stage if status == "processing" else None
            self._working = True
            self.looks_done = False  # the agent meant to say more
            self._in_tools = stage in _TOOL_STAGES
            self._answering = self._answering or stage == "Interpreting"
        elif status == "error":
            if self._is_engine_error(event):
                self.error = event
                self.over = True
        elif status == "cancelled":
            self._feed_cancelled()
        self._last = part
        if self._stopped:
            self.quiet_for = EMPTY_QUIET
        elif self._answered and not self._working:
            self.quiet_for = HOOK_QUIET
        return part

    def end_quiet(self) -> None:
        """The quiet period has passed, and the server has nothing more on this trace."""
        self.over = self.looks_done = True
        self.cancelled = self._stopped
        self.quiet_for = None

    def _is_quiet_at(self, event: Event) -> bool:
        """Whether the quiet period had passed when ``event``, of another trace, was stored."""
        if self.quiet_for is None:
            return False
        last, now = self.events[-1].created, event.created
        return last is not None and now is not None and (now - last).total_seconds() >= self.quiet_for

    def _feed_foreign(self, event: Event, status: str | None, trace: str, source: str) -> Part | None:
        """An event of another trace."""
        if source == "customer":
            self._newer.append(trace)
        if self._is_quiet_at(event):
            self.end_quiet()
        elif not self._prompted and self._is_new_turn(event, status, trace):
            # A prompted turn runs beside those of messages, and no message stops it.
            if self.quiet_for is not None and self._answered and not self._stopped:
                self.end_quiet()  # a turn that still ran would have sent `cancelled` first
            else:
                self._leave()  # 3.0 may stop a turn silently between two of its messages
                return self._begin(event, trace)
        return None

    def _is_new_turn(self, event: Event, status: str | None, trace: str) -> bool:
        return (
            status == "acknowledged"
            and trace not in self._left
            and trace != ANONYMOUS_TRACE
            and event.source == "ai_agent"
        )

    def _feed_waiting(self, event: Event, status: str | None, trace: str, source: str) -> Part | None:
        if source in HUMAN_SOURCES:
            self.human = event
            self.over = self.looks_done = True
            self.events.append(event)
            return "message"
        if self._unannounced and trace != ANONYMOUS_TRACE and event.source == "ai_agent":
            self._begin_trace(trace)
            return self.feed(event)
        any_trace = not self._own_trace or self._newer
        if (any_trace or _is_trace_of(self._own_trace, trace)) and self._is_new_turn(event, status, trace):
            return self._begin(event, trace)
        if source == "customer":
            self._newer.append(trace)
        return None

    def _begin(self, event: Event, trace: str) -> Part:
        self._begin_trace(trace)
        self.events.append(event)
        # Without traces of their own, messages and turns are matched by their order.
        self._newer_answered = len(self._left)
        for number, newer in enumerate(self._newer, 1):
            if _is_trace_of(newer, trace):
                self._newer_answered = number
        return "status"

    def _leave(self) -> None:
        if self.trace is not None:
            self._left.add(self.trace)
        self._prompted = self._unannounced = False
        self._begin_trace(None)
        self.quiet_for = None
        self.restarts += 1

    def _feed_message(self, event: Event) -> Part:
        self._message_since_ready = True
        if event.is_preamble:
            return "preamble"
        # A streamed one has chunks; hooks send whole messages. If a stream breaks, an error follows its end. A bare
        # `ready` after it says that it did not break.
        data = event.raw.get("data")
        streamed = isinstance(data, dict) and isinstance(data.get("chunks"), list)
        self._answered = True
        self._working = self._answering = self._working or streamed
        self.looks_done = not streamed
        return "message"

    def _feed_cancelled(self) -> None:
        if len(self._newer) > self._newer_answered:
            self._leave()
            return
        # Without traces of its own, a message that was posted right after another one may have met the beginning
        # of the older one's turn.
        self._stopped = not self._own_trace and not self._facts.bare_errors
        if not self._stopped:
            self.over = self.cancelled = self.looks_done = True

    def _feed_ready(self, event: Event) -> None:
        data = _status_data(event) or {}
        refusal = data.get("cost_control")
        if isinstance(refusal, dict) and refusal:
            self.refusal = refusal
            self.over = self.looks_done = True
            return
        if data.get("stage") == "completed":
            self.over = True
            # Of the two engines of 4.0, only the one that tells what has matched sends an error after the end.
            self.looks_done = self.looks_done or (self._facts.bare_errors and "matched_guidelines" not in data)
            return
        if data:
            return  # a tool's: the engine's has no data, or a stage
        if self._in_tools:
            # Probably a tool's. But the engine also reports that it fetches data if it then calls no tool.
            if not self._facts.staged:
                self.quiet_for = TOOL_QUIET
            return
        said, self._message_since_ready = self._message_since_ready, False
        if self._last == "message":
            self.looks_done = True
        if self._facts.staged:
            return
        if self._answering and (self._facts.fluid or not said):
            self.over = True
        elif self._last not in ("message", "preamble") or (self._answering and self._facts.fluid is None):
            # The `ready` of a message comes right after it. Any other may be the end of a turn in which only a hook or
            # a tool spoke.
            self.quiet_for = EMPTY_QUIET

    def _is_engine_error(self, event: Event) -> bool:
        data = _status_data(event)
        if data is not None:
            return "exception" in data
        # A tool that calls `emit_status("error")` sends null; on 3.x, it may also send nothing.
        return self._facts.bare_errors and "data" not in event.raw["data"]

    def _feed_late(self, event: Event, status: str | None, trace: str) -> Part | None:
        if status != "error" or trace != self.trace or self.error is not None or not self._is_engine_error(event):
            return None
        self.error = event
        self.events.append(event)
        return "status"


def _is_trace_of(message: str, turn: str) -> bool:
    """Whether a customer's message and a turn have one trace. 3.0 adds a suffix: "abc" and "abc::process"."""
    return turn == message or turn.startswith(message + "::")


def _status_data(event: Event) -> dict[str, Any] | None:
    """The data inside a status event's data; None if it has none at all."""
    data = event.raw.get("data")
    found = data.get("data") if isinstance(data, dict) else None
    return found if isinstance(found, dict) else None


def matched(ready: Event | None) -> list[tuple[str, ...]]:
    """The ids of the guidelines, the journeys and the journey states that matched, from a turn's last ``ready``.

    Empty before Parlant 3.2.
    """
    data = (None if ready is None else _status_data(ready)) or {}
    found: list[tuple[str, ...]] = []
    for name in ("matched_guidelines", "matched_journeys", "matched_journey_states"):
        items = data.get(name)
        ids: list[str] = []
        for item in items if isinstance(items, list) else ():
            if isinstance(item, dict) and isinstance(item.get("id"), str):
                ids.append(item["id"])
        found.append(tuple(ids))
    return found


UpdateKind = Literal["status", "preamble", "text", "tool", "restart", "heartbeat", "end"]


@dataclass(frozen=True)
class Update(Value):
    """One thing that happened in a turn. See ``Turn.updates()``."""

    kind: UpdateKind
    text: str = ""
    event: Event | None = None


class Transcript:
    """What a turn has said so far. Fed the events after the message in offset order. Not thread-safe."""

    def __init__(self, tracker: TurnTracker, every: Callable[[], float] = lambda: BY_LIST) -> None:
        """``every``: in how many seconds a streamed message that was just met is to be read again."""
        self.tracker = tracker
        self._every = every
        # Events in the order that callers get them. A streamed message comes when it is complete.
        self.log: list[Event] = []
        self.pieces: list[str] = []
        self.updates: list[Update] = []  # everything, in the order it became known
        self.restarts = 0  # how often the pieces began again
        self.growing: StreamedMessage | None = None
        self._shown = ""  # of the growing message's text
        self._messages: list[Event] = []  # of the answer
        self._preambles: list[Event] = []
        self._tool_calls: list[dict[str, Any]] = []

    def start_over(self) -> None:
        """Forget everything; all events are fed again."""
        self._restart()
        self.log = []
        self.updates = []
        self.tracker = self.tracker.anew()

    def take(self, event: Event) -> bool:
        """Take the next event; return whether it belongs to the turn."""
        restarts = self.tracker.restarts
        part = self.tracker.feed(event)
        if restarts != self.tracker.restarts:
            self._restart()
        if part is None:
            return False
        if part == "status":
            self.updates.append(Update("status", event.status or "", event))
        elif part == "tool":
            calls = event.tool_calls
            self._tool_calls += calls
            self.updates.append(Update("tool", ", ".join(str(call.get("tool_id")) for call in calls), event))
        elif part == "message":
            self._messages.append(event)
        elif part == "preamble":
            self._preambles.append(event)
        if self.growing is not None:
            self.growing.held.append(event)
        elif part in ("message", "preamble") and event.is_partial:
            self._shown = ""
            self.growing = StreamedMessage(event, self._every())
            self.show_growth()
        else:
            self.log.append(event)
            if part == "preamble":
                self.updates.append(Update("preamble", event.message or "", event))
            elif part == "message":
                self._say(event.message or "", event)
        return True

    def _restart(self) -> None:
        """The turn was cancelled: what it said is not a part of the answer."""
        if self.growing is not None:
            self.log.append(self.growing.event)
            self.log.extend(self.growing.held)
        self.growing = None
        self._messages, self._preambles, self._tool_calls = [], [], []
        if self.pieces:
            self.restarts += 1
            self.pieces = []
            self.updates.append(Update("restart"))

    # -- streamed messages

    def show_growth(self) -> None:
        """The growing message was read again."""
        if self.growing is None:
            return
        if self.growing.event.is_partial:
            self._show(self.growing.event)
        else:
            self.end_growth()

    def end_growth(self) -> None:
        """The growing message is complete, or will not grow any more."""
        growing, self.growing = self.growing, None
        if growing is None:
            return
        event = growing.event
        self._show(event)
        self.log.append(event)
        if event.is_preamble:
            self.updates.append(Update("preamble", event.message or "", event))
        self.log.extend(growing.held)

    def _show(self, event: Event) -> None:
        """Put a message that was read again in the place of its older copy, and show what is new of its text."""
        for events in (self.tracker.events, self._messages, self._preambles):
            for number, older in enumerate(events):
                if older.offset == event.offset:
                    events[number] = event
        if event.is_preamble:
            return
        text = event.message or ""
        if text.startswith(self._shown):
            self._say(text[len(self._shown) :], event, first=not self._shown)
        else:
            # The server has replaced the text.
            self.restarts += 1
            self.pieces = []
            self.updates.append(Update("restart"))
            self._say(self._text(), event)
        self._shown = text

    def _say(self, text: str, event: Event, *, first: bool = True) -> None:
        if text:
            piece = f"\n\n{text}" if first and self.pieces else text
            self.pieces.append(piece)
            self.updates.append(Update("text", piece, event))

    # -- the reply

    def _text(self) -> str:
        """The text of the answer so far."""
        texts: list[str] = []
        for message in self._messages:
            text = message.message
            if text:
                texts.append(text)
        return "\n\n".join(texts)

    def reply(self, request: Event | None, waited: float) -> Reply:
        """What the turn has said so far, or all of it if it is over.

        ``waited``: seconds from the post to the last event, for a turn whose times the server does not show.
        """
        tracker = self.tracker
        events, messages = tracker.events, self._messages
        guidelines, journeys, states = matched(tracker.ready)
        outcome: Outcome = "answered" if messages else "empty"
        if tracker.human is not None:
            outcome = "human"
        elif tracker.cancelled:
            outcome = "cancelled"
        posted = request.created if request is not None else None
        ended = events[-1].created if events else None
        return Reply(
            text=self._text(),
            outcome=outcome,
            messages=tuple(messages),
            preambles=tuple(self._preambles),
            tool_calls=tuple(self._tool_calls),
            matched_guidelines=guidelines,
            matched_journeys=journeys,
            matched_journey_states=states,
            events=tuple(events),
            request=request,
            trace_id=tracker.trace or (tracker.human.trace_id if tracker.human else ""),
            duration=max(0.0, (ended - posted).total_seconds() if posted and ended else waited),
        )
