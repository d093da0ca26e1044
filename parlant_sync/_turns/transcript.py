"""What a turn has told so far: its events, its answer's text in pieces, and the reply that they make. No I/O."""

from __future__ import annotations

from typing import Any

from parlant_sync._turns.streaming import StreamedMessage
from parlant_sync._turns.tracker import TurnTracker
from parlant_sync.events import Event, Outcome, Reply


class Transcript:
    """Told the events after the message in offset order. Not thread-safe."""

    def __init__(self, tracker: TurnTracker) -> None:
        self.tracker = tracker
        # In the order in which a caller is to have them: a streamed message when it is whole.
        self.log: list[Event] = []
        self.pieces: list[str] = []
        self.restarts = 0  # how often the pieces began again
        self.growing: StreamedMessage | None = None
        self._shown = ""  # of the growing message's text
        self._final: dict[int, Event] = {}  # streamed messages of this turn, as last read

    def start_over(self) -> None:
        """To be told everything again."""
        self._restart()
        self.log = []
        self.tracker = self.tracker.anew()

    def take(self, event: Event, every: float) -> None:
        """The next event. A streamed message is to be read again in ``every`` seconds."""
        restarts = self.tracker.restarts
        belongs = self.tracker.feed(event)
        if restarts != self.tracker.restarts:
            self._restart()
        if not belongs:
            return
        if self.growing is not None:
            self.growing.held.append(event)
        elif event.is_partial:
            self._shown = ""
            self.grow(event, every)
        else:
            self.log.append(event)
            if event.kind == "message" and not event.is_preamble:
                self._say(event.message or "")

    def _restart(self) -> None:
        """The turn was cancelled: what it said is no part of the answer."""
        if self.growing is not None:
            self.log.append(self.growing.event)
            self.log.extend(self.growing.held)
        self.growing, self._final = None, {}
        if self.pieces:
            self.restarts += 1
            self.pieces = []

    # -- streamed messages

    def grow(self, event: Event, every: float) -> None:
        """The growing message as read just now."""
        if not event.is_partial:
            self.end_growth(event)
            return
        if self.growing is None:
            self.growing = StreamedMessage(event, every)
        else:
            self.growing.grew(event, every)
        self._final[event.offset] = event
        self._show(event)

    def end_growth(self, event: Event) -> None:
        """The streamed message is whole, or as whole as it gets."""
        self._show(event)
        self._final[event.offset] = event
        growing, self.growing = self.growing, None
        self.log.append(event)
        if growing is not None:
            self.log.extend(growing.held)

    def _show(self, event: Event) -> None:
        text = event.message or ""
        if event.is_preamble or not text or text == self._shown:
            return
        if text.startswith(self._shown):
            self._say(text[len(self._shown) :], first=not self._shown)
        else:
            # The server has written it anew: so does this side, and says so.
            self.restarts += 1
            others = [m.message or "" for m in self._answers() if m.offset != event.offset]
            self.pieces = ["\n\n".join([*others, text])]
        self._shown = text

    def _say(self, text: str, *, first: bool = True) -> None:
        if text:
            self.pieces.append(f"\n\n{text}" if first and self.pieces else text)

    # -- the reply

    def _answers(self) -> list[Event]:
        if self.tracker.human is not None:
            return [self.tracker.human]
        return [e for e in self._events() if e.kind == "message" and not e.is_preamble]

    def _events(self) -> list[Event]:
        return [self._final.get(e.offset, e) for e in self.tracker.events]

    def reply(self, request: Event | None, duration: float) -> Reply:
        """What the turn has said so far; all of it, where it is over."""
        tracker = self.tracker
        events = self._events()
        messages = tuple(self._answers())
        calls: list[dict[str, Any]] = [call for e in events for call in e.tool_calls]
        outcome: Outcome = "human" if tracker.human is not None else "answered" if messages else "empty"
        return Reply(
            text="\n\n".join(m.message for m in messages if m.message),
            outcome=outcome,
            messages=messages,
            preambles=tuple(e for e in events if e.is_preamble),
            tool_calls=tuple(calls),
            events=tuple(events),
            request=request,
            trace_id=tracker.trace or (tracker.human.trace_id if tracker.human else ""),
            duration=duration,
        )
