"""A running turn: drives the state machine with a feed, reads streamed text as it grows, and makes the reply."""

from __future__ import annotations

import ast
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from parlant_sync import errors
from parlant_sync.api import UNREAD, Api
from parlant_sync.deadline import Deadline
from parlant_sync.events import Event, Reply
from parlant_sync.feed import Feed, FeedEnd
from parlant_sync.gate import Pass
from parlant_sync.poller import Poller
from parlant_sync.redaction import redact, shorten
from parlant_sync.retry import retrying
from parlant_sync.turns import TurnTracker

# How often a growing message is read again: alone, or (where that is refused) by a list, which a server limits more.
GROWTH_BY_READ = 0.2
GROWTH_BY_LIST = 1.0
# The engine's error follows the end of its turn: one that looks unfinished is looked at again after so long (WIRE.md).
SECOND_LOOK = 0.5
# What a look at the state of things may cost when the caller's time has already run out.
_LAST_LOOK = 1.0
_ENDINGS = frozenset({"ready", "cancelled", "error"})


class Turn:
    """The agent's turn that answers a message, as it happens.

    Iterate it for its events, iterate :attr:`text` for the answer's text in pieces, or call :meth:`reply`; all three
    tell the whole turn, whenever they are begun. To be driven by one thread at a time (a second one gets
    ConcurrencyError). Each raises TurnTimeout when the turn is out of time, AgentError when the engine reported an
    error, SessionClosed, or what ended the session.
    """

    def __init__(
        self,
        *,
        api: Api,
        session_id: str,
        poller: Poller,
        feed: Feed,
        tracker: TurnTracker,
        deadline: Deadline,
        request: Event | None,
        check: Callable[[], None],
        manual: bool = False,
        entry: Pass | None = None,
        started: float | None = None,
        post_error: errors.ParlantSyncError | None = None,
        begin_by: Deadline | None = None,
    ) -> None:
        self.request = request
        self.restarts = 0
        self._api = api
        self._session_id = session_id
        self._poller = poller
        self._feed = feed
        self._tracker = tracker
        self._deadline = deadline
        self._check = check
        self._manual = manual
        self._entry = entry
        self._started = time.monotonic() if started is None else started
        # trigger() judges its post by the events: an error of the post counts only if no turn begins in time.
        self._post_error = post_error
        self._begin_by = begin_by or Deadline(None)
        self._driving = threading.Lock()  # held by the thread that drives; only ever tried, never waited for
        self._log: list[Event] = []
        self._pieces: list[str] = []
        self._growing: Event | None = None
        self._held: list[Event] = []  # came after the growing message, given after it
        self._final: dict[int, Event] = {}  # streamed messages of this turn, as they ended
        self._shown = ""  # of the growing message's text
        self._outcome: Reply | errors.ParlantSyncError | None = None
        self._left = False
        if entry is not None:
            weakref.finalize(self, entry.release).atexit = False  # type: ignore[misc]

    # -- for the caller

    def __repr__(self) -> str:
        state = "over" if self._outcome is not None else "left" if self._left else "running"
        return f"<Turn of session {self._session_id!r}, request={self.request!r} ({state})>"

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up waiting for this turn (it goes on at the server); the session stays open. Idempotent."""
        self._left = True
        self._let_go()

    @property
    def trace_id(self) -> str | None:
        """The trace of the turn, once it has begun."""
        return self._tracker.trace

    def __iter__(self) -> Iterator[Event]:
        """The turn's events as they come; a streamed message when it is whole."""
        given = 0
        while True:
            while given < len(self._log):
                given += 1
                yield self._log[given - 1]
            if not self._drive(text=False):
                break
        yield from self._log[given:]
        self._raise_if_failed()

    @property
    def text(self) -> Iterator[str]:
        """The answer's text in pieces, whose sum is ``reply().text``: chunks as they grow, else whole messages.

        If the turn was cancelled in the middle of its text, :attr:`restarts` counts it and the pieces go on with the
        new answer. Each use of this attribute begins at the first piece.
        """
        return self._text()

    def _text(self) -> Iterator[str]:
        given, restarts = 0, self.restarts
        while True:
            if restarts != self.restarts:
                given, restarts = 0, self.restarts
            if given < len(self._pieces):
                given += 1
                yield self._pieces[given - 1]
            elif not self._drive(text=True):
                break
        self._raise_if_failed()

    def reply(self) -> Reply:
        """Blocks until the turn is over, and returns what it said."""
        while self._drive(text=False):
            pass
        self._raise_if_failed()
        assert isinstance(self._outcome, Reply)
        return self._outcome

    # -- driving

    def _raise_if_failed(self) -> None:
        if isinstance(self._outcome, errors.ParlantSyncError):
            raise errors.copy_for_waiter(self._outcome)

    def _drive(self, *, text: bool) -> bool:
        """Take one step; False when the outcome is known."""
        if self._outcome is not None:
            return False
        if not self._driving.acquire(blocking=False):
            raise errors.ConcurrencyError("another thread is driving this turn; give each thread its own")
        try:
            self._check()
            if self._left:
                raise errors.SessionClosed("this turn was left; reply_to(turn.request) goes on waiting for it")
            self._poller.use()
            try:
                self._step(text)
            finally:
                self._poller.unuse()
        except errors.ParlantSyncError as error:
            if isinstance(error, (errors.ConcurrencyError, errors.ForkedProcessError)):
                raise
            self._finish(error)
        finally:
            self._driving.release()
        return True

    def _step(self, text: bool) -> None:
        tick = self._deadline
        begun = self._tracker.trace is not None or self._tracker.restarts > 0
        if self._growing is not None and text:
            tick = Deadline(self._deadline.bound(GROWTH_BY_READ if self._api.single_reads else GROWTH_BY_LIST))
        elif self._post_error is not None and not begun:
            tick = Deadline(self._deadline.bound(self._begin_by.bound(None)))
        try:
            event = self._feed.get(tick)
        except FeedEnd as end:
            raise errors.copy_for_waiter(end.cause) from end.cause
        if event is not None:
            self._take(event)
        elif self._deadline.expired():
            raise self._out_of_time()
        elif self._post_error is not None and not begun and self._begin_by.expired():
            raise self._post_error
        elif self._growing is not None and text:
            self._grow(self._reread(self._growing, patient=False))
        if self._tracker.over:
            self._conclude()

    def _take(self, event: Event) -> None:
        growing = self._growing
        held = growing is not None and event.trace_id == growing.trace_id
        if growing is not None and held and (event.status in _ENDINGS or event.kind == "message"):
            held = False
            if event.status != "cancelled":
                last = self._last_reading(growing, event)
                if last is None:
                    return
                self._end_growth(last)
        restarts = self._tracker.restarts
        belongs = self._tracker.feed(event)
        if restarts != self._tracker.restarts:
            self._restart()
        if not belongs:
            return
        if held:
            self._held.append(event)
        elif event.is_partial:
            self._shown = ""
            self._grow(event)
        else:
            self._log.append(event)
            if event.kind == "message" and not event.is_preamble:
                self._say(event.message or "")

    def _last_reading(self, growing: Event, event: Event) -> Event | None:
        """The message at its end; None where the session was closed meanwhile, of which the feed tells next."""
        try:
            return self._reread(growing, patient=True)
        except BaseException as error:
            self._feed.back_to(event.offset)  # it was taken, but nothing was made of it yet
            if not isinstance(error, UNREAD):
                raise
            if self._poller.bell.rung:
                return None
            raise self._out_of_time() from error

    def _restart(self) -> None:
        """The turn was cancelled: what it said is no part of the answer."""
        if self._growing is not None:
            self._log.append(self._growing)
        self._log.extend(self._held)
        self._growing, self._held, self._final = None, [], {}
        if self._pieces:
            self.restarts += 1
            self._pieces = []

    # -- streamed messages

    def _grow(self, event: Event) -> None:
        if not event.is_partial:
            self._end_growth(event)
            return
        self._growing = event
        self._show(event)

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
            self._pieces = ["\n\n".join([*others, text])]
        self._shown = text

    def _end_growth(self, event: Event) -> None:
        """The streamed message is whole, or as whole as it gets."""
        self._show(event)
        self._final[event.offset] = event
        self._growing = None
        self._log.append(event)
        self._log.extend(self._held)
        self._held = []

    def _say(self, text: str, *, first: bool = True) -> None:
        if text:
            self._pieces.append(f"\n\n{text}" if first and self._pieces else text)

    def _reread(self, event: Event, *, patient: bool) -> Event:
        """The message as it is now. ``patient``: until that is known; else what is known already will do."""

        def once() -> Event:
            return self._api.reread(self._session_id, event, deadline=self._step_deadline())

        try:
            if not patient:
                return once()
            return retrying(
                once,
                deadline=self._deadline,
                attempts=float("inf"),
                may_retry=lambda error: isinstance(error, UNREAD),
                bell=self._poller.bell,
            )
        except UNREAD:
            if patient:
                raise
            return event

    def _step_deadline(self) -> Deadline:
        return Deadline(self._deadline.between(_LAST_LOOK, self._api.transport.settings.request_timeout))

    # -- the end

    def _conclude(self) -> None:
        tracker = self._tracker
        if tracker.looks_unfinished:
            self._look_again()
        if tracker.error is not None:
            detail = redact(tracker.error.error_detail)
            raise errors.AgentError(
                f"{self._where}: the agent reported an error: {_last_line(detail)}; the server's log has more",
                detail=detail,
                partial=self._reply(),
            )
        self._finish(self._reply())

    def _look_again(self) -> None:
        tracker = self._tracker
        pause = Deadline(min(SECOND_LOOK, self._deadline.remaining()))
        try:
            while tracker.error is None:
                event = self._feed.get(pause)
                if event is None:
                    break
                tracker.feed(event)
            if tracker.error is None:
                last = tracker.events[-1].offset if tracker.events else -1
                for event in self._api.list_events(self._session_id, last + 1, deadline=self._step_deadline()):
                    tracker.feed(event)
        except (FeedEnd, *UNREAD):
            pass  # the turn is over all the same; it only cannot be told whether an error would have followed

    @property
    def _where(self) -> str:
        return f"session {self._session_id} on {self._api.transport.base_url}"

    def _out_of_time(self) -> errors.TurnTimeout:
        if self._growing is not None:
            self._growing = self._reread(self._growing, patient=False)
            self._final[self._growing.offset] = self._growing
        state = "the agent had not begun" if self._tracker.trace is None else "the agent was still at it"
        if self._manual and self._tracker.trace is None:
            state = "it is in manual mode, and no human has answered"
        then = "; session.reply_to(error.event) goes on waiting" if self.request is not None else ""
        return errors.TurnTimeout(
            f"{self._where}: the turn was not over in time ({state}){then}", partial=self._reply(), event=self.request
        )

    def _answers(self) -> list[Event]:
        if self._tracker.human is not None:
            return [self._tracker.human]
        events = [self._final.get(e.offset, e) for e in self._tracker.events]
        return [e for e in events if e.kind == "message" and not e.is_preamble]

    def _reply(self) -> Reply:
        tracker = self._tracker
        events = tuple(self._final.get(e.offset, e) for e in tracker.events)
        messages = tuple(self._answers())
        calls: list[dict[str, Any]] = [call for e in events for call in e.tool_calls]
        outcome = "human" if tracker.human is not None else "answered" if messages else "empty"
        return Reply(
            text="\n\n".join(m.message for m in messages if m.message),
            outcome=outcome,
            messages=messages,
            preambles=tuple(e for e in events if e.is_preamble),
            tool_calls=tuple(calls),
            events=events,
            request=self.request,
            trace_id=tracker.trace or (tracker.human.trace_id if tracker.human else ""),
            duration=time.monotonic() - self._started,
        )

    def _finish(self, outcome: Reply | errors.ParlantSyncError) -> None:
        self._outcome = outcome
        self._let_go()

    def _let_go(self) -> None:
        self._feed.close()
        if self._entry is not None:
            self._entry.release()


def _last_line(detail: str) -> str:
    """The line of a traceback that says it; servers send the traceback as the repr of its list of lines."""
    try:
        lines = ast.literal_eval(detail)
        text = "".join(lines) if isinstance(lines, list) else detail
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        text = detail
    return shorten(text.strip().rsplit("\n", 1)[-1], 300) or "no detail"
