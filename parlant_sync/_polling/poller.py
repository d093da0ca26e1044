"""The one thread of a session: poll, sort, deliver, back off, stop.

It refers to neither the session nor the client, so that both can be collected while it waits; their finalizer stops it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

from parlant_sync import errors
from parlant_sync._api.calls import is_final
from parlant_sync._api.rest import RestApi
from parlant_sync._api.retry import StopSignal, jittered
from parlant_sync._deadline import Deadline
from parlant_sync._http import interrupt
from parlant_sync._http.transport import PollConnection
from parlant_sync._polling.event_hub import EventHub, LogPosition
from parlant_sync._polling.poll_log import PollCounts, PollLog
from parlant_sync._polling.users import Users

logger = logging.getLogger(__name__)

# A poll may take this many seconds longer than it asked the server to wait.
POLL_SLACK = 10.0
# Where a sleeping poll cannot be woken (Windows, adapters of another kind), it must not sleep for long.
UNWAKEABLE_WAIT = 5


class Poller:
    """Polls one session into its hub. Thread-safe; it starts when first used, and again after it was parked.

    ``on_change`` is called after the state has changed, from any thread and not in order: it is to look at the state.
    """

    def __init__(
        self,
        session_id: str,
        api: RestApi,
        hub: EventHub,
        *,
        poll_wait: int,
        idle_timeout: float,
        on_change: Callable[[], None] = lambda: None,
        backoff: Callable[[int], float] = jittered,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session_id = session_id
        self.counts = PollCounts()
        self.stop_signal = StopSignal()
        self._api = api
        self._hub = hub
        self._poll_wait = poll_wait
        self._idle_timeout = idle_timeout
        self._on_change = on_change
        self._backoff = backoff
        self._clock = clock
        self._alarms = PollLog(session_id, clock)
        self._pausing = False  # after trouble, or after a 429; written by the poller's thread
        # Guards _state, _thread, _line, _users. Reentrant: a collection in the middle may run a user's
        # __del__ that closes this session. (Only one thread collects at a time: no circle of locks comes of that.)
        self._lock = threading.RLock()
        self._state = "new"
        self._thread: threading.Thread | None = None
        self._line: PollConnection | None = None
        self._users = Users(clock)
        self._stopping = False

    @property
    def state(self) -> str:
        """``"new"``, ``"polling"``, ``"waiting"`` (after trouble, or after a 429), ``"parked"``, ``"ended"``."""
        state = self._state
        return "waiting" if state == "polling" and self._pausing else state

    def use(self, user: object) -> None:
        """The session is in use until ``unuse()``, or until ``user`` is gone; a parked poller starts again.

        Raises :class:`TransportError` where no thread can be started; a later call tries again.
        """
        spare: PollConnection | None = None
        started = False
        while True:
            with self._lock:
                if spare is not None and self._start(spare):
                    spare, started = None, True
                # Looked at under the lock that parks it: a user who is not counted yet must not rely on its thread.
                if not self._idle():
                    self._users.come(user)
                    break
            spare = self._api.transport.line()  # outside the lock: it may ask the caller's session factory
        if spare is not None:
            spare.close()  # another thread was faster
        if started:
            self._on_change()

    def _idle(self) -> bool:
        """The lock is held."""
        return self._state in ("new", "parked") and not self._stopping

    def unuse(self, user: object) -> None:
        with self._lock:
            self._users.go(user)

    def _start(self, line: PollConnection) -> bool:
        """False where it is not needed any more. The lock is held, so that nobody relies on a thread that then does not
        come up."""
        # Daemon: a forgotten session must not keep Python from exiting. It cannot lose anything, the server is the log.
        thread = threading.Thread(
            target=self._run, args=(line,), name=f"parlant-sync-poll-{self.session_id}", daemon=True
        )
        if not self._idle():
            return False  # after the last allocation: a collection may have been at work here
        before = self._state
        self._state = "polling"
        self._line = line
        self._thread = thread
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:
            self._state, self._line, self._thread = "ended" if self._stopping else before, None, None
            line.close()
            raise errors.TransportError(
                f"{self._where()}: no thread can be started for its poller ({error}); close sessions, use a smaller "
                "idle_timeout, or raise the limit of the process"
            ) from error
        except BaseException:
            # An interrupt while it waits for the thread to come up: if that does, it ends at once.
            self._stopping = True
            self._hub.end(
                errors.SessionClosed(f"{self._where()}: interrupted while its poller started; {self._open_again()}")
            )
            raise
        return True

    def _where(self) -> str:
        return f"session {self.session_id} on {self._api.transport.base_url}"

    def _open_again(self) -> str:
        return f"client.session({self.session_id!r}) opens it again"

    # -- stopping

    def stop(self) -> None:
        """Wake the thread and let it end; does not wait for it. One-way."""
        self._stopping = True
        self.stop_signal.set()
        with self._lock:
            line = self._line
            if self._thread is None:
                self._state = "ended"
        if line is not None:
            line.slot.stop()

    def abandon(self) -> None:
        """``stop()`` for finalizers: takes no lock, for it may run in a thread that holds ours."""
        self._stopping = True
        self.stop_signal.set()
        line = self._line
        if line is not None:
            line.slot.stop_without_lock()

    def join(self, deadline: Deadline) -> bool:
        """Wait until the thread has ended; True if it has. From the thread itself: True at once."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        try:
            thread.join(deadline.bound(None))
        except RuntimeError:
            return False  # its start was interrupted; it has been told to stop
        return not thread.is_alive()

    def poll_now(self) -> None:
        """Cut the poll that runs: the place in the log has changed under it."""
        line = self._line
        if line is not None:
            line.slot.kick()

    def cut_pause(self) -> None:
        """The server was just seen to answer: a poller that backs off tries again now."""
        self.stop_signal.cut()

    def drop_inherited(self) -> None:
        """In a forked child, where the thread does not exist: let go of its connection."""
        self._lock = threading.RLock()  # a thread of the parent's may hold the old one
        with self._lock:
            self._stopping = True
            self._state = "ended"
            line, self._line, self._thread = self._line, None, None
        if line is not None:
            line.drop_inherited()

    # -- the thread

    def _run(self, line: PollConnection) -> None:
        attempt = 0
        try:
            while not self._stopping:
                wait = self._next_wait(line)
                if wait is None:
                    return
                self._pausing = self._api.list_limiter.delay() > 0
                if not self._api.list_limiter.wait(self.stop_signal):
                    return
                self._pausing = False
                trouble = self._step(line, wait)
                if trouble is None:
                    attempt = 0
                elif not self._stopping:
                    attempt += 1
                    self._pausing = True
                    self.stop_signal.wait(self._backoff(attempt), cuttable=True)
                    self._pausing = False
        except BaseException as error:
            if isinstance(error, errors.ParlantSyncError) and is_final(error):
                self._finish(error)
                return
            # Nothing may come here; if something does, every waiter is told instead of waiting for ever.
            logger.exception("session %s: the poller failed", self.session_id)
            name = type(error).__name__
            broken = errors.ParlantSyncError(
                f"{self._where()}: its poller failed ({name}; the log tells where); {self._open_again()}"
            )
            broken.__cause__ = error
            self._finish(broken)
        finally:
            line.close()
            with self._lock:
                if self._stopping:
                    self._state = "ended"
                if self._line is line:  # a parked session may be polling again already, over another one
                    self._line = None

    def _finish(self, cause: errors.ParlantSyncError) -> None:
        self.counts.last_error = str(cause)
        with self._lock:
            self._stopping = True
            self._state = "ended"  # before anybody is told
        self._alarms.ended(cause)
        self._hub.end(cause)
        self._on_change()

    def _next_wait(self, line: PollConnection) -> int | None:
        """How long the next poll asks the server to wait, in whole seconds; None when the session is to be parked."""
        longest = self._poll_wait if line.wakeable else min(self._poll_wait, UNWAKEABLE_WAIT)
        if self.counts.consecutive_failures:
            longest = 1  # to know soon that the trouble is over
        if math.isinf(self._idle_timeout):
            return longest
        # A poll that was asked for while the session was in use must not keep it from being parked for long.
        longest = min(longest, max(1, math.ceil(self._idle_timeout)))
        with self._lock:
            idle = self._users.idle()
            if idle is None:
                return longest
            if idle < self._idle_timeout:
                return max(1, min(longest, math.ceil(self._idle_timeout - idle)))
            self._state = "parked"
            self._thread = None
            self._line = None
        logger.debug("session %s: parked after %g s without use", self.session_id, self._idle_timeout)
        self._on_change()
        return None

    def _step(self, line: PollConnection, wait: int) -> str | None:
        """One poll. None when all is well, else what was wrong, in a few words; raises what ends the poller."""
        line.slot.rearm()
        asked = self._hub.place
        started = self._clock()
        try:
            new = self._poll(line, wait, asked)
        except interrupt.Interrupted:
            return None
        except Exception as error:
            if is_final(error):
                raise
            if self._stopping:
                return None
            if isinstance(error, errors.RateLimitedError):
                self._api.list_limiter.limited(error.retry_after)
            self.counts.failed(error)
            self._alarms.failed(self.counts.consecutive_failures, error)
            return type(error).__name__
        if new:
            return None
        self.counts.idle_polls += 1
        # Nothing new, long before the time: a proxy that gives up early, or a server that does not wait. Not so fast.
        if self._clock() - started < min(0.8 * wait, 5.0) and asked == self._hub.place:
            return "an early empty answer"
        return None

    def _poll(self, line: PollConnection, wait: int, asked: LogPosition) -> int:
        self.counts.polls += 1
        events, size = self._api.poll(line, self.session_id, min_offset=asked.next, wait=wait, slack=POLL_SLACK)
        self.counts.bytes += size
        self.counts.last_poll = datetime.now(timezone.utc)
        if self.counts.consecutive_failures:
            failures = self.counts.recovered()
            self._alarms.recovered(failures)  # last: whoever reads it in the log finds the counts in order
        # Before the new events are in: of those no reader has had a chance to take any.
        self._alarms.backlog(self._hub.pressure, self._hub.backlog)
        new = self._hub.deliver(events, asked)
        self.counts.events += new
        if new:
            # The woken readers want the interpreter lock, which this thread would keep until its next request is out,
            # half a millisecond later. Given up for an instant, they have their events first.
            time.sleep(0)
        return new
