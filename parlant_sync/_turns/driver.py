"""Drives a running turn: takes its events from a feed, reads streamed text as it grows, and decides how it ended."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from parlant_sync import errors
from parlant_sync._api.retry import unread
from parlant_sync._api.streaming import StreamedMessage
from parlant_sync._deadline import NEVER, Deadline
from parlant_sync._http.redaction import redact
from parlant_sync._polling.event_feed import EventFeed, FeedEnded
from parlant_sync._tracing import OPENTELEMETRY, Span
from parlant_sync._turns.engine_errors import error_detail, summary_of
from parlant_sync._turns.tracker import Transcript, TurnTracker
from parlant_sync.events import Event, Reply

if TYPE_CHECKING:
    from parlant_sync._turns.starter import TurnStarter, TurnTicket

# The engine's error follows the end of its turn. If that looks unfinished, the server is asked again after so long.
SECOND_LOOK = 0.5
# A request at the end of the caller's time may take so long.
_LAST_LOOK = 1.0
# If a trigger's POST has failed, its turn must begin within so many seconds.
_TRIGGER_BEGIN = 10.0


class TurnDriver:
    """One turn, from its first event to its outcome. For one thread at a time, except ``leave()``.

    ``request`` is the message that it answers, if there is one. ``ticket`` is given back at the end. ``post_error`` is
    the error of a trigger's POST: it counts only if no turn begins soon.
    """

    def __init__(
        self,
        starter: TurnStarter,
        feed: EventFeed,
        tracker: TurnTracker,
        deadline: Deadline,
        *,
        request: Event | None = None,
        ticket: TurnTicket | None = None,
        post_error: errors.ParlantSyncError | None = None,
        posted_here: bool = False,
    ) -> None:
        self.request = request
        self.starter = starter
        self.transcript = Transcript(tracker, starter.messages.every)
        self.outcome: Reply | errors.ParlantSyncError | None = None
        self.left = False
        self._feed = feed
        self._deadline = deadline
        self._ticket = ticket
        self._post_error = post_error
        # When to decide without another event of the turn: whether it is over, or has not begun.
        self._quiet = NEVER if post_error is None else Deadline(_TRIGGER_BEGIN)
        self._begin = feed.offset
        self._started = self._last_event_at = time.monotonic()
        self._posted_here = posted_here
        self._span = Span("turn", session_id=starter.session_id) if OPENTELEMETRY in sys.modules else None
        if ticket is not None:
            ticket.running = (tracker, feed.offset)

    def leave(self) -> None:
        """Give up waiting. From any thread."""
        self.left = True
        if self.outcome is None:
            if self._span is not None:
                self._span.end()
            self._let_go()

    def leave_unattended(self) -> None:
        """No thread waits in the turn for now."""
        if self._ticket is not None and not self._ticket.released:
            self._ticket.leave_unattended()

    def run(self) -> Reply:
        """Drive to the end, for a caller who does nothing else with this turn; return what it said, or raise."""
        try:
            self.drive(text=False, to_end=True)
        except BaseException:
            self.leave()
            raise
        return self.result()

    def result(self) -> Reply:
        """The reply of a turn that is over. Raises a copy of its error, so that several threads can ask."""
        outcome = self.outcome
        if isinstance(outcome, Reply):
            return outcome
        assert outcome is not None
        raise errors.copy_for_waiter(outcome)

    def drive(self, *, text: bool, until: Deadline | None = None, to_end: bool = False) -> None:
        """Take one step towards the outcome, which is not known yet, or all of them if ``to_end``.

        The caller has the session in use. ``text``: read a streamed message as it grows. Otherwise it is read once,
        when it is complete. ``until``: end a step at this time, also if nothing has come.
        """
        ticket = self._ticket
        try:
            if ticket is not None:
                ticket.attended = True
            self._step(text, until)
            while to_end and self.outcome is None:
                self._step(text, until)
        except errors.ParlantSyncError as error:
            # Without its frames, which hold this turn and its session: they would be left to the collector.
            self._finish(error.with_traceback(None))
        except BaseException:
            self._start_over()
            raise
        finally:
            if ticket is not None:
                ticket.attended = False  # by a store: an interrupt may come at the first line of what follows
            self.leave_unattended()

    def _was_left(self) -> errors.SessionClosed:
        return errors.SessionClosed(
            f"{self.starter.where}: this turn was closed; session.reply_to(turn.request) continues to wait for it"
        )

    def _start_over(self) -> None:
        """Read the turn again from its first event: the interrupt may have lost one."""
        if self.outcome is None:
            self.transcript.start_over()
            self._quiet = NEVER
            self._feed.back_to(self._begin)

    def _step(self, text: bool, until: Deadline | None) -> None:
        if self.left:
            raise self._was_left()
        transcript = self.transcript
        growing = transcript.growing if text else None
        end = self._deadline
        if self._quiet is not NEVER:
            end = Deadline.earliest(end, self._quiet)
        if until is not None:
            end = Deadline.earliest(end, until)
        if growing is not None:
            end = Deadline.earliest(end, growing.due)
        try:
            event = self._feed.get(end)
        except FeedEnded as ended:
            if self.left:
                raise self._was_left() from None
            raise errors.copy_for_waiter(ended.cause) from ended.cause
        if event is None:
            self._nothing_came()
        elif (transcript.growing is None or self._read_before(event)) and transcript.take(event):
            self._post_error = None  # the trigger has reached the server
            self._last_event_at = time.monotonic()
            quiet_for = transcript.tracker.quiet_for
            self._quiet = NEVER if quiet_for is None else Deadline(quiet_for - self._age(event))
        if growing is not None and growing is transcript.growing and growing.due.expired():
            self._refresh(growing)
        if transcript.tracker.over:
            self._conclude()

    def _age(self, event: Event) -> float:
        """For how many seconds the server has had ``event``, as far as that is known."""
        posted = self.request.created if self.request is not None else None
        if not self._posted_here or posted is None or event.created is None:
            return 0.0
        # The clock of the server now is at least that of the post, and the time since then.
        since_post = time.monotonic() - self._started
        return max(0.0, since_post - (event.created - posted).total_seconds())

    def _nothing_came(self) -> None:
        if self._deadline.expired():
            raise self._out_of_time() from self._post_error
        if self._quiet.expired():
            if self._post_error is not None:
                raise self._post_error
            self._end_quiet()

    def _end_quiet(self) -> None:
        """The quiet period has passed. The poller may have been in trouble meanwhile, so the server itself decides."""
        tracker = self.transcript.tracker
        try:
            newer = self._list_after(attempts=1)
        except errors.ParlantSyncError as error:
            if not unread(error):
                raise
            self._quiet = Deadline(SECOND_LOOK)  # ask again
            return
        self._quiet = NEVER
        if not any(event.trace_id == tracker.trace for event in newer):
            tracker.end_quiet()

    def _list_after(self, attempts: int) -> list[Event]:
        """What the server holds behind the last event of the turn."""
        starter, last = self.starter, self.transcript.tracker.events[-1].offset
        limit = Deadline(self._deadline.between(_LAST_LOOK, starter.settings.request_timeout))
        return starter.api.list_events(starter.session_id, last + 1, deadline=limit, attempts=attempts)

    # -- streamed messages

    def _refresh(self, growing: StreamedMessage) -> None:
        self.starter.messages.refresh(growing, self._deadline)
        self.transcript.show_growth()

    def _read_before(self, event: Event) -> bool:
        """If ``event`` shows that the growing message has ended, read it to its last word first.

        Return False if the session was closed meanwhile, which the feed reports next.
        """
        growing = self.transcript.growing
        if growing is None or not growing.is_followed_by(event) or event.status == "cancelled":
            return True
        try:
            self.starter.messages.finish(growing, self._deadline)
        except errors.ParlantSyncError as error:
            if not unread(error):
                raise
            self._feed.back_to(event.offset)  # the event was taken, but not used yet
            if self.starter.poller.stop_signal.is_set():
                return False
            raise self._out_of_time() from error
        self.transcript.end_growth()
        return True

    # -- the end

    def _conclude(self) -> None:
        transcript, tracker = self.transcript, self.transcript.tracker
        if transcript.growing is not None:  # the turn was stopped in the middle of a message
            self._refresh(transcript.growing)
            transcript.end_growth()
        if not tracker.looks_done:
            self._look_again()
        if tracker.refusal is not None:
            raise self._refused()
        if tracker.error is not None:
            detail = redact(error_detail(tracker.error), self.starter.api.transport.secrets())
            summary = summary_of(detail)
            raise errors.AgentError(
                f"{self.starter.where}: the agent reported an error: {summary}; the server's log has more",
                detail=detail,
                summary=summary,
                partial=self._reply(),
            )
        self._finish(self._reply())

    def _refused(self) -> errors.AgentUnavailable:
        tracker = self.transcript.tracker
        refusal = dict(tracker.refusal or {})
        now = tracker.events[-1].created
        until = Event({"offset": 0, "creation_utc": refusal.get("retry_after_utc")}).created
        retry_after = max(0.0, (until - now).total_seconds()) if until is not None and now is not None else None
        reason = refusal.get("reason")
        reason = reason if isinstance(reason, str) else "no reason given"
        reason = summary_of(redact(reason[:1000], self.starter.api.transport.secrets()))
        when = "later" if retry_after is None else f"in {retry_after:.0f} s"
        return errors.AgentUnavailable(
            f"{self.starter.where}: the server's cost control refused the turn ({reason}); try again {when}",
            detail=reason,
            summary=reason,
            partial=self._reply(),
            retry_after=retry_after,
        )

    def _look_again(self) -> None:
        """An ``error`` may follow: wait for it a moment, then list once. Events of later times make both needless."""
        tracker = self.transcript.tracker
        pause = Deadline(min(SECOND_LOOK, self._deadline.remaining()))
        end = tracker.events[-1].created
        try:
            while tracker.error is None:
                event = self._feed.get(pause)
                if event is None:
                    break
                tracker.feed(event)
                late = end is not None and event.created is not None and (event.created - end).total_seconds()
                if late >= SECOND_LOOK and tracker.error is None:
                    return
            if tracker.error is None:
                for event in self._list_after(attempts=3):
                    tracker.feed(event)
        except (FeedEnded, errors.ParlantSyncError):
            pass  # the turn is over in any case; whether an error would have followed stays unknown

    def _out_of_time(self) -> errors.TurnTimeout:
        transcript = self.transcript
        if transcript.growing is not None:
            self._refresh(transcript.growing)
        then = "session.reply_to(error.event) continues to wait" if self.request is not None else "give it more time"
        why = self._why_not_over()
        if self._post_error is not None:
            why += f"; its request had failed: {self._post_error}"
        return errors.TurnTimeout(
            f"{self.starter.where}: the turn was not over in time ({why}); {then}",
            partial=self._reply(),
            event=self.request,
        )

    def _why_not_over(self) -> str:
        counts = self.starter.poller.counts
        if counts.consecutive_failures and counts.last_error is not None:
            return f"the session cannot be read: {counts.last_error}"
        if self.transcript.tracker.trace is not None:
            return "the agent was still working"
        try:
            info = self.starter.api.read_session(self.starter.session_id, deadline=Deadline(_LAST_LOOK), attempts=1)
        except errors.ParlantSyncError as error:
            return f"the agent had not begun, and the session could not be read: {error}"
        if info.mode == "manual":
            return "the session is in manual mode and no human has answered"
        if info.customer_id not in ("", "guest"):
            return f"the agent had not begun; is customer '{info.customer_id}' known to the server?"
        return "the agent had not begun"

    def _reply(self) -> Reply:
        return self.transcript.reply(self.request, self._last_event_at - self._started)

    def _finish(self, outcome: Reply | errors.ParlantSyncError) -> None:
        self.outcome = outcome
        if self._span is not None:
            if isinstance(outcome, Reply):
                calls = len(outcome.tool_calls)
                self._span.end(trace_id=outcome.trace_id, outcome=outcome.outcome, tool_calls=calls)
            else:
                self._span.end(outcome)
        self._let_go()

    def _let_go(self) -> None:
        self._feed.leave()
        if self._ticket is not None:
            self._ticket.release()
