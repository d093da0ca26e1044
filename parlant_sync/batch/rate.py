"""How fast rows may go: so many messages a minute, and one pause for all when the server asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
# A server that says "tomorrow" is asked once more after that; then patience is over, and the run can end and say so.
_LONGEST_WISH = 300.0
# A production server counts by the minute and says no Retry-After (WIRE.md).
_FIRST_LIMIT_PAUSE = 5.0


class Rate:
    """For one thread. Times are seconds of a monotonic ``clock``."""

    def __init__(self, rate: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap = 60.0 / rate if rate else 0.0
        self._clock = clock
        self._next = clock()
        self._paused_until = clock()
        self._pause = 0.0

    def wait_for_message(self) -> float:
        """Seconds until the next message may go; 0.0 now."""
        return max(0.0, self._next - self._clock(), self.pause_left())

    def take(self) -> None:
        """A message goes out: the next one not before its turn. What was not used is not saved up."""
        self._next = max(self._next, self._clock()) + self._gap

    def pause_left(self) -> float:
        """Seconds of the common pause that are left."""
        return max(0.0, self._paused_until - self._clock())

    def trouble(self, *, limited: bool = False, wish: float | None = None) -> None:
        """The server refused for now (429: ``limited``, with its wish) or was not reached. Pauses grow, one by one."""
        if self.pause_left() > 0 and wish is None:
            return  # one of a volley: they were all under way at the first one
        first = _FIRST_LIMIT_PAUSE if limited else _FIRST_PAUSE
        self._pause = min(max(2 * self._pause, first), _LONGEST_PAUSE)
        self._paused_until = max(self._paused_until, self._clock() + max(self._pause, min(wish or 0.0, _LONGEST_WISH)))

    def success(self) -> None:
        """The server answers again."""
        self._pause = 0.0
