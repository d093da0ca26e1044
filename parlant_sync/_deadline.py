"""How waits end: by a deadline that all steps of a call share, or by the stop signal of their owner."""

from __future__ import annotations

import math
import operator
import queue
import threading
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

from parlant_sync.errors import ConfigurationError

_T = TypeVar("_T")

# A socket waits no longer: its timeout becomes a count of milliseconds in 31 bits.
SOCKET_MAX = 2_000_000.0


def seconds(name: str, value: object, *, none_is_ok: bool = False, minimum: float = 0.0) -> float:
    """A duration given by a caller as float seconds; None (where allowed) is infinity.

    Raises ``ConfigurationError`` for what is no number, NaN, or below ``minimum``.
    """
    if value is None and none_is_ok:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{name} must be a number of seconds{' or None' if none_is_ok else ''}, not {value!r}")
    try:
        number = float(value)
    except OverflowError:
        raise ConfigurationError(f"{name} is a number of seconds without measure") from None
    if math.isnan(number) or number < minimum:
        raise ConfigurationError(f"{name} must be at least {minimum:g} seconds, not {value!r}")
    return number


def get_in_time(items: queue.SimpleQueue[_T], timeout: float | None) -> _T:
    """``items.get(timeout=timeout)`` for one consumer, which never waits longer. Raises ``queue.Empty``.

    CPython's ``SimpleQueue.get`` never returns if its timeout passes before it has taken the queue's internal lock
    for the first time: always with a microsecond, and with longer ones if the thread is suspended just then. A
    ``get_nowait()`` before it takes that lock.
    """
    try:
        return items.get_nowait()
    except queue.Empty:
        if timeout is not None and timeout <= 0:
            raise
    return items.get(timeout=timeout)


class Deadline:
    """A point on the monotonic clock; the wall clock may jump as it likes. Immutable, so usable from any thread."""

    __slots__ = ("_at",)

    def __init__(self, timeout: float | None) -> None:
        self._at = math.inf if timeout is None else monotonic() + timeout

    @staticmethod
    def earliest(*deadlines: Deadline) -> Deadline:
        """The one that passes first."""
        return min(deadlines, key=_AT)

    def remaining(self) -> float:
        """Seconds left: 0.0 when it has passed, ``math.inf`` when there is no end."""
        return max(0.0, self._at - monotonic())

    def expired(self) -> bool:
        return self._at <= monotonic()

    def bound(self, limit: float | None = None) -> float | None:
        """The shorter of ``limit`` and the time left, in the form that waits of the standard library take."""
        left = self._at - monotonic()
        if limit is not None and limit < left:
            left = limit
        # The longest wait that every platform takes; a caller that waits without end comes round again.
        return None if left == math.inf else min(max(left, 0.0), threading.TIMEOUT_MAX)

    def for_socket(self) -> float | None:
        """The time left, as a socket takes it. (There, 0.0 would mean "do not block".)"""
        return None if self._at == math.inf else min(max(self._at - monotonic(), 0.0), SOCKET_MAX)

    def between(self, least: float, most: float) -> float:
        """The time left, but at least ``least`` and at most ``most`` seconds: what one step of a call may take."""
        return min(max(self._at - monotonic(), least), most)

    def __repr__(self) -> str:
        return f"Deadline(remaining={self.remaining():.3f})"


# Without end.
NEVER = Deadline(None)

_AT = operator.attrgetter("_at")


class StopSignal:
    """Ends every wait of one owner (a session, a client), now and later. Thread-safe.

    Neither ``set()`` nor ``cut()`` takes a lock, so a finalizer or a signal handler may call them at any moment. (A
    ``threading.Event`` has a lock: a handler that comes while its own thread holds it would hang.)
    """

    __slots__ = ("_cuttable", "_set", "_waits")

    def __init__(self) -> None:
        self._set = False
        # One queue per wait that is under way. Changed by single list operations only, which are atomic.
        self._waits: list[queue.SimpleQueue[None]] = []
        self._cuttable: list[queue.SimpleQueue[None]] = []

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        """End all waits, now and later. One-way."""
        self._set = True
        _wake(self._waits)
        _wake(self._cuttable)

    def cut(self) -> None:
        """End the ``cuttable`` waits that are under way; stop nothing."""
        _wake(self._cuttable)

    def wait(
        self, timeout: float | None = None, *, cuttable: bool = False, unless: Callable[[], bool] = lambda: False
    ) -> bool:
        """Wait until the signal is set, for at most ``timeout`` seconds. Return whether it is set.

        ``cuttable``: ``cut()`` ends this wait, too. Does not wait if ``unless()`` is true already.
        """
        waits = self._cuttable if cuttable else self._waits
        wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        try:
            waits.append(wake)
            # Checked after the append: a set() or cut() from before has not woken this wait.
            if not self._set and not unless():
                get_in_time(wake, timeout)
        except queue.Empty:
            pass
        finally:
            if wake in waits:
                waits.remove(wake)
        return self._set


def _wake(waits: list[queue.SimpleQueue[None]]) -> None:
    for wake in list(waits):
        wake.put(None)
