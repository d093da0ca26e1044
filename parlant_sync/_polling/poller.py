"""The one thread of a session: poll, deliver, back off, stop.

It refers to neither the session nor the client, so both can be collected while it waits. Their finalizer stops it.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from parlant_sync import errors
from parlant_sync._api.rest import RestApi
from parlant_sync._api.retry import is_final, jittered
from parlant_sync._deadline import Deadline
from parlant_sync._http import connection
from parlant_sync._http.transport import PollConnection
from parlant_sync._polling.event_hub import EventHub, LogPosition
from parlant_sync._polling.poll_log import FULL, PollCounts, PollLog
from parlant_sync.events import Event

# A poll may take this many seconds longer than it asked the server to wait.
POLL_SLACK = 10.0
# A poll that cannot be woken while it waits (on Windows, or with other adapters) must not wait for long.
UNWAKEABLE_WAIT = 5


class Use:
    """A period in which the session is in use: ``with Use(poller): ...``. It ends if the object is freed, too.

    ``start=False``: for a call that needs no polling. It does not start the poller, but keeps it from being parked.
    """

    __slots__ = ("__weakref__", "_poller", "_start")

    def __init__(self, poller: Poller, *, start: bool = True) -> None:
        self._poller = poller
        self._start = start

    def __enter__(self) -> None:
        poller = self._poller
        with poller._lock:
            # Under the lock that parks it, so that nobody relies on a thread that is about to park.
            poller._users[id(self)] = weakref.ref(self)
            needed = self._start and poller._state != "polling"
        if needed:
            try:
                poller.start()
            except BaseException:
                self.__exit__()  # the caller may keep the error, and with its frames this object
                raise

    def __exit__(self, *_: object) -> None:
        poller = self._poller
        with poller._lock:
            poller._users.pop(id(self), None)
            poller._last_used = poller._clock()


class Poller:
    """Polls one session into its hub. Starts when first used, and again after it was parked. Thread-safe.

    ``on_change`` is called after the state has changed, from any thread and in any order: it must look at the state.
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
        self.stop_signal = hub.stop_signal
        self._api = api
        self._hub = hub
        self._poll_wait = poll_wait
        self._idle_timeout = idle_timeout
        self._on_change = on_change
        self._backoff = backoff
        self._clock = clock
        self._alarms = PollLog(session_id, clock)
        self._pausing = False  # after a failure, or after a 429; written by the poller's thread
        # Guards the fields below. Reentrant: a collection while it is held may run a
        # user's __del__ that closes this session.
        self._lock: Any = threading.RLock()
        self._state = "new"
        self._thread: threading.Thread | None = None
        self._line: PollConnection | None = None
        # Who uses the session. Weakly, so a user whose ``__exit__`` was interrupted stops counting once it is freed.
        self._users: dict[int, weakref.ref[object]] = {}
        self._last_used = clock()

    @property
    def state(self) -> str:
        """``"new"``, ``"polling"``, ``"waiting"`` (after a failure, or after a 429), ``"parked"``, ``"ended"``."""
        if self.stop_signal.is_set():
            return "ended"
        return "waiting" if self._state == "polling" and self._pausing else self._state

    def start(self) -> None:
        """Start the thread of a poller that is new or parked.

        Raises ``TransportError`` if no thread can be started; a later call tries again.
        """
        if self.stop_signal.is_set():
            return
        line = self._api.transport.line()  # outside the lock: it may call the caller's session factory
        started = False
        try:
            with self._lock:
                started = self._start(line)
        finally:
            if not started:
                line.close()
        if started:
            self._on_change()

    def _idle(self) -> float | None:
        """For how many seconds the session has had no user; None while it has one. The lock is held."""
        now = self._clock()
        self._users = {key: ref for key, ref in self._users.items() if ref() is not None}
        if self._users:
            self._last_used = now  # in case a user is freed without its ``__exit__``
            return None
        return now - self._last_used

    def _start(self, line: PollConnection) -> bool:
        """Start the thread; False if it is not needed any more. The lock is held, so that no caller relies on a thread
        that then fails to start."""
        name, before = f"parlant-sync-poll-{self.session_id}", self._state
        try:
            # Daemon: a forgotten session must not keep Python from exiting. Nothing is lost, the server is the log.
            thread = threading.Thread(target=self._run, args=(line,), name=name, daemon=True)
            # Looked at after this allocation: the garbage collector may have closed or started the session there.
            if self._state == "polling" or self.stop_signal.is_set():
                return False
            self._state, self._line, self._thread = "polling", line, thread
            thread.start()
        except BaseException as error:
            # After an exception of a signal handler the thread may still come up. It ends, as this is not its line.
            if self._line is line:
                self._state, self._line, self._thread = before, None, None
                line.slot.stop()
            if not isinstance(error, (RuntimeError, MemoryError)):
                raise
            then = "close sessions, use a smaller idle_timeout, or raise the limit of the process"
            if "daemon" in str(error):  # a subinterpreter (InterpreterPoolExecutor) allows no daemon threads
                then = "use a process or a thread pool"
            raise errors.TransportError(
                f"{self._where()}: no thread can be started for its poller ({error}); {then}"
            ) from error
        return True

    def _where(self) -> str:
        return f"session {self.session_id} on {self._api.transport.base_url}"

    def _open_again(self) -> str:
        return f"client.session({self.session_id!r}) opens it again"

    # -- from other threads

    def stop(self) -> None:
        """Wake the thread and let it end; do not wait for it. One-way. Takes none of the locks above."""
        self.stop_signal.set()
        line = self._line
        if line is not None:
            line.slot.stop()

    def abandon(self) -> None:
        """``stop()`` for finalizers, which take no lock at all: they may run in a thread that holds one."""
        self.stop_signal.set()
        line = self._line
        if line is not None:
            line.slot.stop_without_lock()

    def join(self, deadline: Deadline) -> bool:
        """Wait until the thread has ended; return whether it has.

        Does not wait if it cannot end yet: in the thread itself, and in a signal handler that has interrupted its
        thread while that held a lock which the poller needs.
        """
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        if self._lock._is_owned() or self._hub.is_locked_here():
            return False
        try:
            thread.join(deadline.bound(None))
        except RuntimeError:
            return False  # its start was interrupted, and it was stopped
        return not thread.is_alive()

    def poll_now(self) -> None:
        """Abort the running poll and poll again: the place in the log has changed, or the poll is overdue."""
        line = self._line
        if line is not None:
            line.slot.kick()

    def cut_pause(self) -> None:
        """End a pause after failures: the server has just answered a call."""
        self.stop_signal.cut()

    def drop_inherited(self) -> None:
        """In a forked child, which does not have the thread: let go of its connection."""
        self._lock = threading.RLock()  # a thread of the parent may hold the old one
        line, self._line, self._thread = self._line, None, None
        self.stop_signal.set()
        if line is not None:
            line.drop_inherited()

    # -- the thread

    def _run(self, line: PollConnection) -> None:
        try:
            self._poll(line)
        except BaseException as error:
            if isinstance(error, errors.ParlantSyncError) and is_final(error):
                self._finish(error)
                return
            # A bug. Every caller that waits gets an error instead of waiting forever.
            broken = errors.ParlantSyncError(
                f"{self._where()}: its poller failed ({type(error).__name__}; see the log); {self._open_again()}"
            )
            broken.__cause__ = error
            self._finish(broken)
            self._alarms.broken(error)
        finally:
            line.close()

    def _poll(self, line: PollConnection) -> None:
        """Poll until the session ends or is parked. Raises what ends it."""
        limiter, stop, hub = self._api.list_limiter, self.stop_signal, self._hub
        failures = 0
        wait: int | None = self._longest_wait(line)  # without the lock, which the thread's start holds
        while wait is not None and not stop.is_set():
            if hub.start is None:
                stop.wait(wait, cuttable=True, unless=lambda: hub.start is not None)
            else:
                if limiter.limiting:
                    self._pausing = limiter.delay() > 0
                    if not limiter.wait(stop):
                        return
                    self._pausing = False
                else:
                    limiter.went.append(self._clock())
                if self._step(line, wait):
                    failures = 0
                elif not stop.is_set():
                    failures += 1
                    self._pausing = True
                    stop.wait(self._backoff(failures), cuttable=True)
                    self._pausing = False
            wait = self._next_wait(line)

    def _finish(self, cause: errors.ParlantSyncError) -> None:
        self.counts.last_error = str(cause)
        self._hub.end(cause)
        self._on_change()
        self._alarms.ended(cause)

    def _longest_wait(self, line: PollConnection) -> int:
        """How many whole seconds the next poll of a session that is in use asks the server to wait."""
        if self.counts.consecutive_failures:
            return 1  # to notice soon that the server is back
        # A poll that began while the session was in use must not delay its parking for long.
        longest = min(self._poll_wait, max(1.0, self._idle_timeout))
        return math.ceil(longest if line.wakeable else min(longest, UNWAKEABLE_WAIT))

    def _next_wait(self, line: PollConnection) -> int | None:
        """How many seconds the next poll asks the server to wait; None if this thread is to end.

        Then the session was stopped, or is parked now, or the thread's start was interrupted.
        """
        with self._lock:
            if self.stop_signal.is_set() or self._line is not line:
                return None
            idle = self._idle() or 0.0
            if idle < self._idle_timeout:
                return max(1, math.ceil(min(self._longest_wait(line), self._idle_timeout - idle)))
            self._state, self._thread, self._line = "parked", None, None
        self._on_change()
        self._alarms.parked(self._idle_timeout)
        return None

    def _step(self, line: PollConnection, wait: int) -> bool:
        """One poll. Returns False if the next one is to wait for a moment. Raises what ends the poller."""
        line.slot.rearm()
        asked = self._hub.place
        started = self._clock()
        self.counts.polls += 1
        try:
            events, size = self._api.poll(line, self.session_id, min_offset=asked.next, wait=wait, slack=POLL_SLACK)
        except connection.Interrupted:
            return True
        except (Exception, SystemExit) as error:
            if is_final(error):
                raise
            # It comes from the network, the server or a proxy; or from a token callable, an auth object or a logging
            # handler, which may raise anything. None of them ends the poller.
            if not self.stop_signal.is_set():
                self._failed(error)
            return False
        if self._deliver(events, size, asked):
            return True
        self.counts.idle_polls += 1
        # An empty answer long before its time is from a proxy that gives up early, or a server that does not wait.
        return self._clock() - started >= min(0.8 * wait, 5.0) or asked != self._hub.place

    def _deliver(self, events: list[Event], size: int, asked: LogPosition) -> int:
        """After a poll that succeeded. Logs last: a logging handler may be slow, or raise."""
        counts, hub = self.counts, self._hub
        counts.bytes += size
        counts.last_poll = datetime.now(timezone.utc)
        failures = counts.recovered()
        # Measured before the new events are in, which no reader has had a chance to take.
        pressure = hub.pressure
        backlog = hub.backlog if pressure > FULL else 0
        new = hub.deliver(events, asked)
        counts.events += new  # before the readers run: what they see has been counted
        if new:
            # The readers that were woken need the interpreter lock, which this thread would keep until its next
            # request is out, half a millisecond later.
            time.sleep(0)
        if failures:
            self._alarms.recovered(failures)
        self._alarms.backlog(pressure, backlog)
        return new

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, errors.RateLimitedError):
            self._api.list_limiter.limited(error.retry_after)
        self.counts.failed(error)
        self._alarms.failed(self.counts.consecutive_failures, error)
