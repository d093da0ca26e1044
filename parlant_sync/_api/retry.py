"""Again after trouble: how long to pause, and what cuts that short. tenacity repeats, loaded at the first trouble."""

from __future__ import annotations

import queue
import random
from collections.abc import Callable
from typing import Any, TypeVar

from parlant_sync._deadline import Deadline

_T = TypeVar("_T")

SHORTEST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
# What a server may ask for by Retry-After at most.
LONGEST_RETRY_AFTER = 60.0
# One request may take so long even where its caller's time has run out, and none is repeated that would have less.
LEAST = 0.5


def _tenacity() -> Any:
    """tenacity; None while it cannot be loaded, for the first trouble may be that no file can be opened."""
    try:
        import tenacity
    except (OSError, ImportError, AttributeError):
        return None
    # Another thread's import may be failing at this moment, and have left a half of it to be seen here.
    needed = ("Retrying", "retry_if_exception", "sleep_using_event")
    return tenacity if all(hasattr(tenacity, name) for name in needed) else None


def jittered(attempt: int) -> float:
    """The pause in seconds after the ``attempt``-th failure in a row: 0.25 s to 10 s, full jitter."""
    return random.uniform(SHORTEST_PAUSE, min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(attempt, 30)))


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

    Raises what the last call raised. A pause ends early when ``bell`` rings, and one last call follows.
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
