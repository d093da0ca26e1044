"""Which signals came just before the main thread blocked, and are still to be handled."""

from __future__ import annotations

import math

# A signal is sent again so many seconds after it came, and after twice the time again.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5


class Unhandled:
    """For one thread. Times are seconds of a monotonic clock; ``handled``, how often handlers have run by now.

    Python runs one handler for all signals of a number that have come since the last time, so those that came and the
    runs of handlers do not add up.
    """

    def __init__(self) -> None:
        self.check = math.inf  # when to look next whether they were handled
        self._came: list[int] = []  # since all were handled the last time
        self._before = 0  # the runs of handlers by then,
        self._seen = 0  # and when the last of them was seen to come
        self._ours: list[int] = []  # sent again, and not yet seen to come
        self._pause = _FIRST_PAUSE

    def came(self, signum: int, handled: int, now: float) -> bool:
        """One has come; False where it is one of those that were sent again."""
        if signum in self._ours:
            self._ours.remove(signum)
            return False
        self._came.append(signum)
        self._seen = handled
        self._pause = _FIRST_PAUSE
        self.check = now + self._pause
        return True

    def settled(self, handled: int) -> bool:
        """Whether all were handled: each by a run of its own, or all by one that came after the last of them."""
        if handled <= self._seen and handled - self._before < len(self._came):
            return False
        self._came, self._ours, self._before, self.check = [], [], handled, math.inf
        return True

    def again(self, now: float) -> int:
        """The one to be sent again now."""
        self._ours.append(self._came[-1])
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self.check = now + self._pause
        return self._came[-1]
