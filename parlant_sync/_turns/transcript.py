"""What a turn has said so far: its events, the text of its answer in pieces, and the reply that they make. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from parlant_sync._turns.streaming import BY_LIST, StreamedMessage
from parlant_sync._turns.tracker import TurnTracker, matched
from parlant_sync.events import Event, Reply, Value

UpdateKind = Literal["status", "preamble", "text", "tool", "restart", "heartbeat", "end"]


@dataclass(frozen=True)
class Update(Value):
    """One thing that happened in a turn. See ``Turn.updates()``."""

    kind: UpdateKind
    text: str = ""
    event: Event | None = None


class Transcript:
    """Fed the events after the message in offset order. Not thread-safe."""

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
        self._messages: list[Event] = []  # of this turn, preambles among them
        self._tool_calls: list[dict[str, Any]] = []
        self._final: dict[int, Event] = {}  # streamed messages of this turn, as last read

    def start_over(self) -> None:
        """Forget everything; all events are fed again."""
        self._restart()
        self.log = []
        self.updates = []
        self.tracker = self.tracker.anew()

    def take(self, event: Event) -> bool:
        """Take the next event; return whether it belongs to the turn."""
        restarts = self.tracker.restarts
        belongs = self.tracker.feed(event)
        if restarts != self.tracker.restarts:
            self._restart()
        if not belongs:
            return False
        kind = event.kind
        if kind == "status":
            self.updates.append(Update("status", event.status or "", event))
        elif kind == "tool":
            calls = event.tool_calls
            self._tool_calls += calls
            self.updates.append(Update("tool", ", ".join(str(call.get("tool_id")) for call in calls), event))
        elif kind == "message" and event.source != "system":
            self._messages.append(event)
        if self.growing is not None:
            self.growing.held.append(event)
        elif kind == "message" and event.is_partial:
            self._shown = ""
            self.growing = StreamedMessage(event, self._every())
            self.show_growth()
        else:
            self.log.append(event)
            if kind == "message" and event.is_preamble:
                self.updates.append(Update("preamble", event.message or "", event))
            elif kind == "message" and event.source != "system":
                self._say(event.message or "", event)
        return True

    def _restart(self) -> None:
        """The turn was cancelled: what it said is not a part of the answer."""
        if self.growing is not None:
            self.log.append(self.growing.event)
            self.log.extend(self.growing.held)
        self.growing, self._final = None, {}
        self._messages, self._tool_calls = [], []
        if self.pieces:
            self.restarts += 1
            self.pieces = []
            self.updates.append(Update("restart"))

    # -- streamed messages

    def show_growth(self) -> None:
        """The growing message was read again."""
        if self.growing is None:
            return
        event = self.growing.event
        if not event.is_partial:
            self.end_growth()
            return
        self._final[event.offset] = event
        self._show(event)

    def end_growth(self) -> None:
        """The growing message is complete, or will not grow any more."""
        growing, self.growing = self.growing, None
        if growing is None:
            return
        event = growing.event
        self._show(event)
        self._final[event.offset] = event
        self.log.append(event)
        if event.is_preamble:
            self.updates.append(Update("preamble", event.message or "", event))
        self.log.extend(growing.held)

    def _show(self, event: Event) -> None:
        text = event.message or ""
        if event.is_preamble or not text or text == self._shown:
            return
        if text.startswith(self._shown):
            self._say(text[len(self._shown) :], event, first=not self._shown)
        else:
            # The server has replaced the text.
            self.restarts += 1
            others = [m.message or "" for m in self._answers() if m.offset != event.offset]
            self.pieces = []
            self.updates.append(Update("restart"))
            self._say("\n\n".join([*others, text]), event)
        self._shown = text

    def _say(self, text: str, event: Event, *, first: bool = True) -> None:
        if text:
            piece = f"\n\n{text}" if first and self.pieces else text
            self.pieces.append(piece)
            self.updates.append(Update("text", piece, event))

    # -- the reply

    def _last_read(self, events: list[Event]) -> list[Event]:
        """These events, each streamed message as it was read last."""
        final = self._final
        return [final.get(event.offset, event) for event in events] if final else events

    def _answers(self) -> list[Event]:
        """The messages of the answer, without its preambles."""
        return [message for message in self._last_read(self._messages) if not message.is_preamble]

    def reply(self, request: Event | None, waited: float) -> Reply:
        """What the turn has said so far, or all of it if it is over.

        ``waited``: seconds from the post to the last event, for a turn whose times the server does not show.
        """
        tracker = self.tracker
        events = self._last_read(tracker.events)
        messages = self._answers() if tracker.human is None else [tracker.human]
        ready: Event | None = None
        for event in reversed(events):
            if event.status == "ready":
                ready = event
                break
        answered: Literal["answered", "empty"] = "answered" if messages else "empty"
        posted = request.created if request is not None else None
        ended = events[-1].created if events else None
        texts = [message.message for message in messages]
        guidelines, journeys, states = matched(ready)
        return Reply(
            text="\n\n".join(text for text in texts if text),
            outcome="human" if tracker.human is not None else "cancelled" if tracker.cancelled else answered,
            messages=tuple(messages),
            preambles=tuple(message for message in self._last_read(self._messages) if message.is_preamble),
            tool_calls=tuple(self._tool_calls),
            matched_guidelines=guidelines,
            matched_journeys=journeys,
            matched_journey_states=states,
            events=tuple(events),
            request=request,
            trace_id=tracker.trace or (tracker.human.trace_id if tracker.human else ""),
            duration=max(0.0, (ended - posted).total_seconds() if posted and ended else waited),
        )
