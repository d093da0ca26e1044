"""How long to pause after trouble, and who waits for whom. tenacity decides; it is loaded at the first trouble."""

from __future__ import annotations

import math
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from parlant_sync.deadline import Deadline

_T = TypeVar("_T")

SHORTEST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
# What a server may ask for by Retry-After at most, and what a 429 without it means at the first time.
LONGEST_RETRY_AFTER = 60.0
FIRST_RATE_PAUSE = 2.0
LONGEST_RATE_PAUSE = 15.0
# Between two lists of one client after a 429: a quarter under the 240 a minute that a production server allows.
FIRST_GAP = 60.0 / 180
FIRST_POST_GAP = 60.0 / 24
# One request may take so long even where its caller's time has run out, and none is repeated that would have less.
LEAST = 0.5
# Servers count by the minute.
WINDOW = 60.0
# A refusal so long after the last pause is a new trouble, and begins with a short pause again.
CALM = 5.0
LONGEST_GAP = 5.0
# A request that waits to become the first in the queue is told so; it looks by itself so much later.
LOST_WAKE = 1.0


def _tenacity() -> Any:
    """tenacity; None while it cannot be loaded, for the first trouble may be that no file can be opened."""
    try:
        import tenacity
    except (OSError, ImportError, AttributeError):
        return None
    # Another thread's import may be failing at this moment, and have left a half of it to be seen here.
    needed = ("wait_random_exponential", "RetryCallState", "Retrying", "retry_if_exception", "sleep_using_event")
    return tenacity if all(hasattr(tenacity, name) for name in needed) else None


def jittered(attempt: int) -> float:
    """The pause in seconds after the ``attempt``-th failure in a row: 0.25 s to 10 s, full jitter."""
    tenacity = _tenacity()
    if tenacity is None:
        return random.uniform(SHORTEST_PAUSE, min(LONGEST_PAUSE, 2 * SHORTEST_PAUSE * 2 ** (min(attempt, 30) - 1)))
    wait = tenacity.wait_random_exponential(multiplier=2 * SHORTEST_PAUSE, max=LONGEST_PAUSE, min=SHORTEST_PAUSE)
    state = tenacity.RetryCallState(None, None, (), {})
    state.attempt_number = min(attempt, 30)
    return float(wait(state))


class Bell:
    """A one-way wake-up. ``ring()`` takes no lock, so that a finalizer may call it in any thread at any moment."""

    __slots__ = ("_naps", "rung")

    def __init__(self) -> None:
        self._naps: list[Nap] = []  # those that are slept now; changed by single calls only
        self.rung = False

    def ring(self) -> None:
        self.rung = True
        for nap in list(self._naps):
            nap.cut()

    def wait(self, timeout: float | None = None) -> bool:
        """Until it rings, at most ``timeout`` seconds; True if it has rung. (tenacity's name for it, too.)"""
        return self.rung or Nap(self).wait(timeout)


class Nap:
    """A wait of one thread that ends when ``bell`` rings, and that others may end without ringing it."""

    __slots__ = ("_bell", "_queue")

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._queue: queue.SimpleQueue[None] = queue.SimpleQueue()

    def cut(self) -> None:
        """End the wait, or the next one where none is under way. Takes no lock, as ``Bell.ring()``."""
        self._queue.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """At most ``timeout`` seconds; True if the bell has rung."""
        naps = self._bell._naps
        try:
            naps.append(self)
            if not self._bell.rung:  # looked at when it can be found: a bell that rang before has not cut it
                self._queue.get(timeout=timeout)
        except queue.Empty:
            pass
        finally:
            if self in naps:
                naps.remove(self)
        return self._bell.rung


def retrying(
    call: Callable[[], _T],
    *,
    deadline: Deadline,
    attempts: float,
    may_retry: Callable[[BaseException], bool],
    bell: Bell,
) -> _T:
    """``call()``, again after failures that ``may_retry``, until it succeeds, ``deadline`` or ``attempts`` run out.

    Raises what the last call raised. A pause ends early when ``bell`` rings; the call is not repeated then.
    """
    try:
        return call()
    except Exception as error:
        if attempts <= 1 or deadline.remaining() <= LEAST or not may_retry(error):
            raise
        tenacity = _tenacity()
        if tenacity is None:
            raise
        first: Exception | None = error

    def attempt() -> _T:
        nonlocal first
        if first is not None:  # the one that was made above: a call that goes well needs no tenacity
            error, first = first, None
            raise error
        return call()

    def pause(state: Any) -> float:
        error = state.outcome.exception() if state.outcome else None
        wish = min(getattr(error, "retry_after", None) or 0.0, LONGEST_RETRY_AFTER)
        return float(min(max(jittered(state.attempt_number), wish), deadline.remaining() - LEAST))

    def stop(state: Any) -> bool:
        return bool(state.attempt_number >= attempts or deadline.remaining() <= LEAST or bell.rung)

    def sleep(seconds: float) -> None:
        tenacity.sleep_using_event(bell)(seconds)

    runner = tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_retry), wait=pause, stop=stop, sleep=sleep, reraise=True
    )
    result: _T = runner(attempt)
    return result


def retry_after(value: str | None) -> float | None:
    """A Retry-After header in seconds; None where it is missing (WIRE.md), a date, or nonsense."""
    try:
        seconds = float(value or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


class Waiter:
    """A request in the queue of a ``Pace``; ``wake`` tells it to ask again, for it has become the first."""

    __slots__ = ("here", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.here = True


class Pace:
    """One brake for all requests of one kind of a client: a 429 pauses them together, then spaces them out.

    How far apart is told by how many went in the minute before the first refusal: so many were too many. Calm makes
    them faster again. Who must wait stands in a queue, and takes a slot only by going: giving up costs the others
    nothing. Thread-safe. What a production server allows per address and minute is in WIRE.md.
    """

    def __init__(self, *, first_gap: float = FIRST_GAP, clock: Callable[[], float] = time.monotonic) -> None:
        """``first_gap``: seconds between two requests that a first refusal never goes beyond."""
        self._lock = threading.Lock()  # guards everything below; held for arithmetic only, and innermost
        self._first_gap = first_gap
        self._clock = clock
        self._waiters: deque[Waiter] = deque()
        self._times: deque[float] = deque(maxlen=5000)  # when the latest went
        self._paused_until = -math.inf
        self._next_slot = -math.inf  # when the next may go, while they are spaced out
        self._gap = 0.0  # seconds between two; 0.0 where nothing limits them
        self._pause = FIRST_RATE_PAUSE
        self._changed_at = -math.inf
        self._tightened_at = -math.inf

    def go(self) -> bool:
        """Whether a request may go at once; it has its slot then. Where not, ``wait()``."""
        with self._lock:
            now = self._clock()
            if self._first() is not None or self._free_at(now) > now:
                return False
            self._take(now)
            return True

    def wait(self, bell: Bell, deadline: Deadline | None = None) -> bool:
        """Wait for a slot. True: the request may go now.

        False: it may not, for ``bell`` has rung, or ``deadline`` passed before its turn came. Where nobody need wait,
        a request may go however late it is.
        """
        if bell.rung:
            return False
        if self.go():
            return True
        nap = Nap(bell)
        waiter = Waiter(nap.cut)
        try:
            while deadline is None or not deadline.expired():
                pause = self.ask(waiter)
                if pause is None:
                    return True
                if nap.wait(pause if deadline is None else deadline.bound(pause)):
                    return False
            return False
        finally:
            waiter.here = False  # first, by a mere store: an interrupt inside leave() must not block the queue
            self.leave(waiter)

    def ask(self, waiter: Waiter) -> float | None:
        """Queue up. None: the slot is there, go; else ask again when woken, in so many seconds at the latest.

        Whoever has asked must ``leave()``, gone or not.
        """
        with self._lock:
            now = self._clock()
            first = self._first()
            if waiter not in self._waiters:
                self._waiters.append(waiter)
            pause = max(0.0, self._free_at(now) - now)
            if first is not None and first is not waiter:
                # It is woken when it is the first. The time is for the case that an interrupt swallows that.
                return pause + self._waiters.index(waiter) * self._gap + LOST_WAKE
            if pause > 0:
                return pause
            self._take(now)
            return None

    def leave(self, waiter: Waiter) -> None:
        """Leave the queue; whoever is the first now is woken."""
        waiter.here = False
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            first = self._first()
            if first is not None:
                first.wake()

    def pause_left(self) -> float:
        """Seconds of the common pause that are left."""
        with self._lock:
            return max(0.0, self._paused_until - self._clock())

    def limited(self, wish: float | None) -> None:
        """A 429 came, with this Retry-After in seconds or None; what it asks for is heeded up to a minute."""
        with self._lock:
            now = self._clock()
            if now < self._paused_until and wish is None:
                return  # one of a volley: they were all under way when the first was refused
            if now - self._changed_at > CALM:
                self._pause = FIRST_RATE_PAUSE
            pause = max(self._pause, min(wish or 0.0, LONGEST_RETRY_AFTER))
            self._pause = min(self._pause * 2, LONGEST_RATE_PAUSE)
            self._tighten(now)
            self._paused_until = max(self._paused_until, now + pause)
            self._changed_at = self._paused_until

    def _first(self) -> Waiter | None:
        """The lock is held."""
        assert self._lock.locked()
        while self._waiters and not self._waiters[0].here:
            self._waiters.popleft()
        return self._waiters[0] if self._waiters else None

    def _free_at(self, now: float) -> float:
        """When the first in the queue may go. The lock is held."""
        assert self._lock.locked()
        if self._gap:
            self._ease(now)
        return max(self._paused_until, self._next_slot)

    def _take(self, now: float) -> None:
        """The lock is held."""
        assert self._lock.locked()
        self._times.append(now)
        self._next_slot = now + self._gap

    def _tighten(self, now: float) -> None:
        """The lock is held."""
        assert self._lock.locked()
        if now - self._tightened_at < 1.2 * WINDOW:
            return  # the server still counts what went before the gap was set
        self._tightened_at = now
        if self._gap:
            self._gap = min(self._gap * 1.25, LONGEST_GAP)
        else:
            recent = sum(1 for at in self._times if now - WINDOW < at)
            self._gap = min(WINDOW / (0.9 * max(recent, 1)), self._first_gap)

    def _ease(self, now: float) -> None:
        """A minute without a 429: the server's window has passed, go a little faster. The lock is held."""
        assert self._lock.locked()
        if now - self._changed_at > WINDOW:
            self._changed_at = now
            self._pause = FIRST_RATE_PAUSE
            self._gap = self._gap * 0.85 if self._gap > 0.02 else 0.0
