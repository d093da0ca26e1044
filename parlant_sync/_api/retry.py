"""What a failure means, what may be tried again and after which pause, and the stop signal that ends every pause."""

from __future__ import annotations

import queue
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from parlant_sync import errors
from parlant_sync._deadline import Deadline, get_in_time

if TYPE_CHECKING:
    from parlant_sync._http.transport import Failure

_T = TypeVar("_T")

SHORTEST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
# The longest Retry-After of a server that is obeyed.
LONGEST_RETRY_AFTER = 60.0
# A request gets at least this many seconds, also at the end of its caller's time. With less left, none is repeated.
LEAST = 0.5


def jittered(attempt: int) -> float:
    """The pause in seconds after the ``attempt``-th failure in a row: from 0.25 s up to 10 s, full jitter."""
    return random.uniform(SHORTEST_PAUSE, min(LONGEST_PAUSE, SHORTEST_PAUSE * 2 ** min(attempt, 30)))


def pause_after(error: BaseException, failures: int, pauses: Callable[[int], float] | None = None) -> float:
    """The pause in seconds after ``error``, the n-th failure in a row: what the server asked for, if that is longer."""
    wish = getattr(error, "retry_after", None) or 0.0
    return max((pauses or jittered)(failures), min(wish, LONGEST_RETRY_AFTER))


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


def retrying(
    call: Callable[[], _T],
    *,
    deadline: Deadline,
    attempts: float,
    may_retry: Callable[[BaseException], bool],
    stop: StopSignal,
    pauses: Callable[[int], float] | None = None,
    on_pause: Callable[[BaseException, float], object] = lambda error, seconds: None,
) -> _T:
    """``call()``, repeated after failures that ``may_retry`` until it succeeds or ``deadline`` or ``attempts`` end it.

    Raises the last failure. ``pauses`` gives the seconds to wait after the n-th failure (default: ``jittered``); a
    longer ``retry_after`` of the failure counts instead. ``on_pause`` is called with a failure and the seconds before
    each wait. When ``stop`` is set in a pause, one last call follows.
    """

    def over(failures: int) -> bool:
        return failures >= attempts or deadline.remaining() <= LEAST or stop.is_set()

    def pause(error: Any, failures: int) -> float:
        seconds = min(pause_after(error, failures, pauses), deadline.remaining() - LEAST)
        on_pause(error, seconds)
        return seconds

    # The first call needs no tenacity, whose import takes longer than a request.
    try:
        return call()
    except Exception as error:
        if over(1) or not may_retry(error):
            raise
        try:
            import tenacity
        except Exception:  # the failure may be that this process can open no file
            raise error from None
        first_pause = pause(error, 1)
    stop.wait(first_pause)
    runner = tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_retry),
        stop=lambda state: over(state.attempt_number + 1),
        wait=lambda state: pause(state.outcome and state.outcome.exception(), state.attempt_number + 1),
        sleep=tenacity.sleep_using_event(stop),  # type: ignore[arg-type]
        reraise=True,
    )
    try:
        result: _T = runner(call)
    except Exception as error:
        raise error.with_traceback(None)  # without the frames of tenacity  # noqa: B904
    return result


_ABOUT_TIME = (408, 425, 444, 460, 499)  # the last three are those of nginx and of AWS for a client that went away


# -- what a failure means: the only place that decides what is final, and what may be repeated


def is_final(error: BaseException) -> bool:
    """Whether this ends a session for every reader: Parlant itself says 401, 403 or 404. A proxy's page never does."""
    final = (errors.NotFoundError, errors.AuthenticationError, errors.PermissionDeniedError)
    return isinstance(error, final) and error.from_parlant


def may_pass(error: BaseException) -> bool:
    """Whether reading again may help: the network, a proxy, a limit. Everything else would fail the same way again."""
    if isinstance(error, errors.TransportError):
        return not error._hopeless
    if isinstance(error, (errors.ServerError, errors.RateLimitedError)):
        return True
    return isinstance(error, errors.ApiError) and error.status in (401, 403, 404) and not error.from_parlant


def unread(error: BaseException) -> bool:
    """Whether events were not read for a reason that may pass. The server has them, so a reader asks again."""
    known = (errors.TransportError, errors.ProtocolError, errors.ApiError)
    return isinstance(error, known) and not is_final(error)


def may_repeat(error: BaseException, failure: Failure) -> bool:
    """Whether a request that changes something may be made again, and may then succeed."""
    return not_taken(error, failure) and may_pass(error)


def not_taken(error: BaseException, failure: Failure) -> bool:
    """Whether this failure proves that the server did not take the request."""
    if isinstance(error, errors.RateLimitedError):
        return True
    return isinstance(error, errors.TransportError) and not failure.sent


def not_stored(error: BaseException, failure: Failure) -> bool:
    """Whether this failure of a post proves that the server does not hold the message."""
    if not failure.sent or not_taken(error, failure):
        return True
    # Parlant itself refused it. What a proxy answers may be about an answer of Parlant's that did not get through.
    return isinstance(error, errors.ApiError) and error.from_parlant and refuses(error)


def refuses(error: BaseException) -> bool:
    """Whether this status says that the request was not carried out, not that its answer came too late or was lost."""
    return isinstance(error, errors.ApiError) and 400 <= error.status < 500 and error.status not in _ABOUT_TIME
