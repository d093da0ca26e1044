"""The rate limit of a client: after a 429, its requests of one kind pause together and then go one by one.

Before that, they go without asking: their times are noted in ``went``, for the gap that a 429 causes.
"""

from __future__ import annotations

import heapq
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from parlant_sync._api.retry import LONGEST_RETRY_AFTER
from parlant_sync._deadline import Deadline, StopSignal

# The pause in seconds after a first 429 without Retry-After, and the longest after further ones.
FIRST_RATE_PAUSE = 2.0
LONGEST_RATE_PAUSE = 15.0
# Between two lists of one client after a 429: a quarter below the 240 a minute that a production server allows.
FIRST_GAP = 60.0 / 180
FIRST_POST_GAP = 60.0 / 24
LONGEST_GAP = 5.0
# Servers count by the minute.
WINDOW = 60.0
# A 429 so many seconds after the last pause is a new trouble, and begins with a short pause again.
CALM = 5.0


class RateLimiter:
    """Hands out the times at which requests of one kind may go, while it is ``limiting``. Thread-safe.

    Otherwise a request goes at once, and its time on the clock is appended to ``went``. A 429 pauses all requests, then
    spaces them out. The gap follows from how many went in the minute before the first 429, which were too many; minutes
    without a 429 shorten it again. A caller that gives up returns its time, so it costs the others nothing. WIRE.md
    lists what a production server allows per address and minute.
    """

    def __init__(self, *, first_gap: float = FIRST_GAP, clock: Callable[[], float] = time.monotonic) -> None:
        """``first_gap``: the longest gap in seconds that a first 429 can cause."""
        self._first_gap = first_gap
        self._clock = clock
        self._begin()

    def _begin(self) -> None:
        # Guards everything below; held for arithmetic only, and innermost. Reentrant: a signal handler may post, too.
        self._lock = threading.RLock()
        self.limiting = False  # from a 429 on, until enough minutes went by without another; read without the lock
        self.went: deque[float] = deque(maxlen=5000)  # when the latest went while nothing limited them
        self._paused_until = -math.inf
        self._next = -math.inf  # the first time that was not handed out yet
        self._returned: list[float] = []  # a heap of times before it that callers gave back
        self._gap = 0.0  # seconds between two; 0.0 while nothing limits them
        self._pause = FIRST_RATE_PAUSE
        self._changed_at = -math.inf
        self._tightened_at = -math.inf
        self._pid = os.getpid()

    def _own_lock(self) -> threading.RLock:
        """The lock. In a forked child, where a thread of the parent may hold it, start empty first."""
        if self._pid != os.getpid():
            self._begin()
        return self._lock

    def wait(self, stop: StopSignal, deadline: Deadline | None = None) -> bool:
        """Wait for a turn. Return whether the request may go now.

        It may not if ``stop`` is set, or if its turn would come after ``deadline``: then False is returned at once. If
        nothing limits the requests, one may go however late it is.
        """
        while not stop.is_set():
            now = self._clock()
            at = self.reserve(math.inf if deadline is None else now + deadline.remaining())
            if at is None:
                return False
            now = self._clock()
            if at <= now:
                return True
            went = False
            try:
                went = not stop.wait(at - now) and at >= self._paused_until
            finally:
                if not went:
                    self.give_back(at)
            if went:
                return True
            # Stopped, or another 429 came meanwhile: queue up again behind its pause.
        return False

    def reserve(self, latest: float) -> float | None:
        """The time on the clock at which the caller may go; None if that is after ``latest``."""
        with self._own_lock():
            now = self._clock()
            self._ease(now)
            if not self._gap and self._paused_until <= now:
                self.limiting = False
                self.went.append(now)
                return now
            start = max(now, self._paused_until)
            while self._returned and self._returned[0] < start:
                heapq.heappop(self._returned)
            at = self._returned[0] if self._returned else max(start, self._next)
            if at > max(now, latest):
                return None
            if self._returned:
                heapq.heappop(self._returned)
            else:
                self._next = at + self._gap
            return at

    def give_back(self, at: float) -> None:
        """The caller that reserved this time does not go."""
        with self._own_lock():
            if at + self._gap == self._next:
                self._next = at
            else:
                heapq.heappush(self._returned, at)

    def delay(self) -> float:
        """Seconds until a request that asks now may go; 0.0 if it may go at once."""
        with self._own_lock():
            now = self._clock()
            return max(0.0, self._paused_until - now, self._next - now if self._gap else 0.0)

    def pause_left(self) -> float:
        """Seconds left of the pause after a 429; 0.0 without a pause."""
        with self._own_lock():
            return max(0.0, self._paused_until - self._clock())

    def limited(self, wish: float | None) -> None:
        """A 429 came, with this Retry-After in seconds or None. A longer one than a minute counts as a minute."""
        with self._own_lock():
            self.limiting = True
            now = self._clock()
            if now < self._paused_until and wish is None:
                return  # one of a volley: all were under way when the first was refused
            if now - self._changed_at > CALM:
                self._pause = FIRST_RATE_PAUSE
            pause = max(self._pause, min(wish or 0.0, LONGEST_RETRY_AFTER))
            self._pause = min(self._pause * 2, LONGEST_RATE_PAUSE)
            self._tighten(now)
            self._paused_until = max(self._paused_until, now + pause)
            self._changed_at = self._paused_until

    def _tighten(self, now: float) -> None:
        """The lock is held."""
        if now - self._tightened_at < 1.2 * WINDOW:
            return  # the server still counts what went before the gap was set
        self._tightened_at = now
        if self._gap:
            self._gap = min(self._gap * 1.25, LONGEST_GAP)
        else:
            recent = sum(1 for at in self.went.copy() if now - WINDOW < at)  # others append meanwhile
            self._gap = min(WINDOW / (0.9 * max(recent, 1)), self._first_gap)
            self.went.clear()

    def _ease(self, now: float) -> None:
        """After a minute without a 429 the server's window has passed: go a little faster. The lock is held."""
        if self._gap and now - self._changed_at > WINDOW:
            self._changed_at = now
            self._pause = FIRST_RATE_PAUSE
            self._gap = self._gap * 0.85 if self._gap > 0.02 else 0.0
