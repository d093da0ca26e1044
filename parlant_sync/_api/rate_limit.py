"""The brake of a client: after a 429 its requests of one kind pause together, and then take turns."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from parlant_sync._api.retry import LONGEST_RETRY_AFTER, Bell, Nap
from parlant_sync._deadline import Deadline

# What a 429 without Retry-After means at the first time, and at most.
FIRST_RATE_PAUSE = 2.0
LONGEST_RATE_PAUSE = 15.0
# Between two lists of one client after a 429: a quarter under the 240 a minute that a production server allows.
FIRST_GAP = 60.0 / 180
FIRST_POST_GAP = 60.0 / 24
# Servers count by the minute.
WINDOW = 60.0
# A refusal so long after the last pause is a new trouble, and begins with a short pause again.
CALM = 5.0
LONGEST_GAP = 5.0
# A request that waits to become the first in the queue is told so; it looks by itself so much later.
LOST_WAKE = 1.0


class Waiter:
    """A request in the queue of a ``RateLimiter``; ``wake`` tells it to ask again, for it has become the first."""

    __slots__ = ("here", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.here = True


class RateLimiter:
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
