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

    __slots__ = ("_queue", "rung")

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.rung = False

    def ring(self) -> None:
        self.rung = True
        self._queue.put(None)

    def poke(self) -> None:
        """End the wait of one waiter, or the next one's, without ringing."""
        self._queue.put(None)

    def wait(self, timeout: float | None = None) -> bool:
        """Until it rings, at most ``timeout`` seconds; True if it has rung. (tenacity's name for it, too.)"""
        before = self.rung
        if before:
            return True
        try:
            self._queue.get(timeout=timeout)
        except queue.Empty:
            return self.rung
        if self.rung:
            self._queue.put(None)  # for the next waiter
        return self.rung


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


class Pace:
    """One brake for all requests of one kind of a client: a 429 pauses them together, then spaces them out.

    How far apart is told by how many went in the minute before the first refusal: so many were too many. Calm makes
    them faster again. Thread-safe. What a production server allows per address and minute is in WIRE.md.
    """

    def __init__(self, *, first_gap: float = FIRST_GAP, clock: Callable[[], float] = time.monotonic) -> None:
        """``first_gap``: seconds between two requests that a first refusal never goes beyond."""
        self._lock = threading.Lock()  # guards everything below; held for arithmetic only
        self._first_gap = first_gap
        self._clock = clock
        self._times: deque[float] = deque(maxlen=5000)  # when the latest went, or are to go
        self._paused_until = -math.inf
        self._next_slot = -math.inf  # when the next may go, while they are spaced out
        self._gap = 0.0  # seconds between two; 0.0 where nothing limits them
        self._pause = FIRST_RATE_PAUSE
        self._changed_at = -math.inf
        self._tightened_at = -math.inf
        self._refusals = 0

    @property
    def refusals(self) -> int:
        """How often a pause began. A slot that was claimed before the latest is void: claim another."""
        return self._refusals

    def claim(self) -> float:
        """Take a slot for one request; the seconds until it may go."""
        with self._lock:
            now = self._clock()
            at = max(now, self._paused_until)
            if self._gap:
                self._ease(now)
                at = max(at, self._next_slot)
                self._next_slot = at + self._gap
            self._times.append(at)
            return at - now

    def wait(self, wait: Callable[[float], object], give_up: Callable[[], bool]) -> None:
        """Claim a slot and ``wait`` for it; again where a refusal has made it void meanwhile."""
        while not give_up():
            refusals = self._refusals
            pause = self.claim()
            if pause > 0:
                wait(pause)
            if refusals == self._refusals:
                return

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
            while self._times and self._times[-1] > now:
                self._times.pop()  # slots that are void now
            self._paused_until = max(self._paused_until, now + pause)
            self._next_slot = self._paused_until
            self._changed_at = self._paused_until
            self._refusals += 1

    def _tighten(self, now: float) -> None:
        """The lock is held."""
        assert self._lock.locked()
        if now - self._tightened_at < 1.2 * WINDOW:
            return  # the server still counts what went before the gap was set
        self._tightened_at = now
        if self._gap:
            self._gap = min(self._gap * 1.25, LONGEST_GAP)
        else:
            recent = sum(1 for at in self._times if now - WINDOW < at <= now)
            self._gap = min(WINDOW / (0.9 * max(recent, 1)), self._first_gap)

    def _ease(self, now: float) -> None:
        """A minute without a 429: the server's window has passed, go a little faster. The lock is held."""
        assert self._lock.locked()
        if now - self._changed_at > WINDOW:
            self._changed_at = now
            self._pause = FIRST_RATE_PAUSE
            self._gap = self._gap * 0.85 if self._gap > 0.02 else 0.0
