"""A running turn: drives the state machine with a feed, reads streamed text as it grows, and makes the reply."""

from __future__ import annotations

import ast
import os
import re
import time
from collections.abc import Callable, Iterator

from parlant_sync import errors
from parlant_sync._api.calls import unread
from parlant_sync._api.rest import RestApi
from parlant_sync._api.retry import retrying
from parlant_sync._deadline import Deadline
from parlant_sync._http.redaction import redact, shorten
from parlant_sync._polling.event_feed import EventFeed, FeedEnded
from parlant_sync._polling.poller import Poller
from parlant_sync._polling.users import Use
from parlant_sync._single_owner import SingleOwner
from parlant_sync._turns.streaming import BY_LIST, BY_READ
from parlant_sync._turns.tracker import TurnTracker
from parlant_sync._turns.transcript import Transcript
from parlant_sync._turns.turn_queue import TurnTicket
from parlant_sync.events import Event, Reply

# The engine's error follows the end of its turn: one that looks unfinished is looked at again after so long (WIRE.md).
SECOND_LOOK = 0.5
# What a look at the state of things may cost when the caller's time has already run out.
_LAST_LOOK = 1.0


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
        api: RestApi,
        session_id: str,
        poller: Poller,
        feed: EventFeed,
        tracker: TurnTracker,
        deadline: Deadline,
        request: Event | None,
        check: Callable[[], None],
        manual: bool = False,
        entry: TurnTicket | None = None,
        started: float | None = None,
        post_error: errors.ParlantSyncError | None = None,
        begin_by: Deadline | None = None,
    ) -> None:
        self.request = request
        self._api = api
        self._session_id = session_id
        self._poller = poller
        self._feed = feed
        self._told = Transcript(tracker)
        self._deadline = deadline
        self._check = check
        self._manual = manual
        self._entry = entry
        self._started = time.monotonic() if started is None else started
        # trigger() judges its post by the events: an error of the post counts only if no turn begins in time.
        self._post_error = post_error
        self._begin_by = begin_by or Deadline(None)
        self._pid = os.getpid()
        self._claim = SingleOwner()  # of the thread that drives
        self._begin = feed.offset
        self._outcome: Reply | errors.ParlantSyncError | None = None
        self._left = False

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
        if self._pid == os.getpid():  # else the locks on this way may be held by threads that exist in the parent only
            self._let_go()

    @property
    def restarts(self) -> int:
        """How often the pieces of :attr:`text` have begun again, with another answer."""
        return self._told.restarts

    @property
    def trace_id(self) -> str | None:
        """The trace of the turn, once it has begun."""
        return self._told.tracker.trace

    def __iter__(self) -> Iterator[Event]:
        """The turn's events as they come; a streamed message when it is whole."""
        given = 0
        while True:
            while given < len(self._told.log):
                given += 1
                yield self._told.log[given - 1]
            if not self._drive(text=False):
                break
        yield from self._told.log[given:]
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
            if given < len(self._told.pieces):
                given += 1
                yield self._told.pieces[given - 1]
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
        self._check()
        if not self._claim.take():
            raise errors.ConcurrencyError(
                f"{self._where}: another thread is driving this turn; let one thread do it, or give each a turn"
            )
        try:
            if self._left:
                raise self._was_left()
            with Use(self._poller):
                self._step(text)
        except (errors.ConcurrencyError, errors.ForkedProcessError):
            raise
        except errors.ParlantSyncError as error:
            self._finish(error)
        except BaseException:
            self._start_over()
            raise
        finally:
            self._claim.let_go()
        return True

    def _was_left(self) -> errors.SessionClosed:
        return errors.SessionClosed(
            f"{self._where}: this turn was left; session.reply_to(turn.request) goes on waiting for it"
        )

    def _start_over(self) -> None:
        """An interrupt, somewhere on the way of an event that may now be told half: the server has all of them."""
        if self._outcome is None:
            self._told.start_over()
            self._feed.back_to(self._begin)

    def _step(self, text: bool) -> None:
        tick = self._deadline
        told = self._told
        begun = told.tracker.trace is not None or told.tracker.restarts > 0
        growing = told.growing if text else None
        if growing is not None:
            tick = Deadline(self._deadline.bound(growing.due.bound(None)))
        elif self._post_error is not None and not begun:
            tick = Deadline(self._deadline.bound(self._begin_by.bound(None)))
        try:
            event = self._feed.get(tick)
        except FeedEnded as end:
            if self._left:
                raise self._was_left() from None
            raise errors.copy_for_waiter(end.cause) from end.cause
        if event is not None:
            self._take(event)
        elif self._deadline.expired():
            raise self._out_of_time()
        elif self._post_error is not None and not begun and self._begin_by.expired():
            raise self._post_error
        if growing is not None and growing is told.growing and growing.due.expired():
            told.grow(self._reread(growing.event, patient=False), self._every)
        if told.tracker.over:
            self._conclude()

    def _take(self, event: Event) -> None:
        told = self._told
        growing = told.growing
        if growing is not None and growing.is_followed_by(event) and event.status != "cancelled":
            last = self._last_reading(growing.event, event)
            if last is None:
                return
            told.end_growth(last)
        told.take(event, self._every)

    @property
    def _every(self) -> float:
        return BY_READ if self._api.single_reads else BY_LIST

    def _last_reading(self, growing: Event, event: Event) -> Event | None:
        """The message at its end; None where the session was closed meanwhile, of which the feed tells next."""
        try:
            return self._reread(growing, patient=True)
        except errors.ParlantSyncError as error:
            if not unread(error):
                raise
            self._feed.back_to(event.offset)  # it was taken, but nothing was made of it yet
            if self._poller.stop_signal.is_set():
                return None
            raise self._out_of_time() from error

    # -- streamed messages

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
                may_retry=unread,
                stop=self._poller.stop_signal,
            )
        except errors.ParlantSyncError as error:
            if patient or not unread(error):
                raise
            return event

    def _step_deadline(self) -> Deadline:
        return Deadline(self._deadline.between(_LAST_LOOK, self._api.transport.settings.request_timeout))

    # -- the end

    def _conclude(self) -> None:
        tracker = self._told.tracker
        if tracker.looks_unfinished:
            self._look_again()
        if tracker.error is not None:
            detail = redact(tracker.error.error_detail, self._api.transport.settings.secrets())
            summary = _in_short(detail)
            raise errors.AgentError(
                f"{self._where}: the agent reported an error: {summary}; the server's log has more",
                detail=detail,
                summary=summary,
                partial=self._reply(),
            )
        self._finish(self._reply())

    def _look_again(self) -> None:
        tracker = self._told.tracker
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
        except (FeedEnded, errors.ParlantSyncError):
            pass  # the turn is over all the same; it only cannot be told whether an error would have followed

    @property
    def _where(self) -> str:
        return f"session {self._session_id} on {self._api.transport.base_url}"

    def _out_of_time(self) -> errors.TurnTimeout:
        told = self._told
        if told.growing is not None:
            told.grow(self._reread(told.growing.event, patient=False), self._every)
        begun = told.tracker.trace is not None
        state = "the agent was still at it" if begun else "the agent had not begun"
        if self._manual and not begun:
            state = "it is in manual mode, and no human has answered"
        then = "session.reply_to(error.event) goes on waiting" if self.request is not None else "give it more time"
        return errors.TurnTimeout(
            f"{self._where}: the turn was not over in time ({state}); {then}", partial=self._reply(), event=self.request
        )

    def _reply(self) -> Reply:
        return self._told.reply(self.request, time.monotonic() - self._started)

    def _finish(self, outcome: Reply | errors.ParlantSyncError) -> None:
        self._outcome = outcome
        self._let_go()

    def _let_go(self) -> None:
        self._feed.leave()
        if self._entry is not None:
            self._entry.release()


def _in_short(detail: str) -> str:
    """What an error says, without the traceback above it; servers send that as the repr of its list of lines."""
    try:
        lines = ast.literal_eval(detail)
        text = "".join(lines) if isinstance(lines, list) else detail
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        text = detail
    # Behind the last headline, and the last frame with its line of source, which are indented.
    said = re.split(r"(?m)^(?:Traceback \(.*\n|[ \t]+File .*\n(?:[ \t]+.*\n)*)", text)[-1]
    return shorten(" ".join(said.split()), 300) or "no detail"
