"""What failures mean, how fast messages may go, and how long the server's trouble is borne. No I/O in here."""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Callable

import parlant_sync as ps
from parlant_sync.batch.worker import Answer

logger = logging.getLogger(__name__)

# Seconds that a server may be away, or answer 429, without one success, before the run ends. It can be run again.
# With the seconds until it is noticed about a minute: then each session's poller would give an alarm of its own.
PATIENCE = 50.0
PATIENCE_LIMITED = 300.0
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 10.0
# A production server counts by the minute and sends no Retry-After (WIRE.md).
_FIRST_LIMITED_PAUSE = 5.0
_LONGEST_LIMITED_PAUSE = 60.0
# A server that says "tomorrow" is asked once more after that; then patience is over, and the run can end and say so.
_LONGEST_WISH = 300.0


class Verdict(enum.Enum):
    OVER = "the turn is over, well or not: it is the row's result, or its next message follows"
    WAIT = "the server is away or busy: try again later, together with all rows"
    LOOK = "the message may or may not be there: look for it, and post it again once it is certain that it is not"
    ANEW = "its session is gone from the server, with all that was said: from the beginning"
    STOP = "this concerns every row: the run ends, and can be repeated"


def judge(stage: str, answer: Answer, *, own: bool, tries_left: bool, was_away: bool) -> Verdict:
    """``stage``: ``open``, ``look``, ``post``, ``ask`` or ``wait``. ``own``: the session was made for this row.

    ``was_away``: the server was in trouble during this turn. ``tries_left`` limits what concerns this row alone.
    """
    cause = answer.cause
    away = cause is not None and is_away(cause)
    if isinstance(cause, ps.AuthenticationError) and not away:
        return Verdict.STOP
    if isinstance(cause, (ps.TransportError, ps.RateLimitedError)):
        return Verdict.WAIT
    retry = Verdict.WAIT if stage in ("open", "look") else Verdict.LOOK
    if isinstance(cause, ps.NotFoundError) and not away and stage == "look":
        return Verdict.ANEW if own else Verdict.OVER
    if isinstance(cause, ps.TurnTimeout):
        # The time of an outage does not count against the row.
        return Verdict.LOOK if was_away else Verdict.OVER
    doubtful = away or isinstance(cause, ps.ServerError)
    if stage not in ("open", "look"):
        doubtful = doubtful or isinstance(cause, (ps.DeliveryUncertain, ps.NotFoundError))
    return retry if doubtful and tries_left else Verdict.OVER


def is_away(error: BaseException) -> bool:
    """Whether this says that the server is away or busy. A refusal counts only if Parlant itself has written it."""
    if isinstance(error, ps.ApiError):
        # Parlant's own 500 is plain text (WIRE.md).
        plain = error.status == 500 and not error.detail.lstrip().startswith("<")
        return error.status in (429, 502, 503, 504) or not (error.from_parlant or plain)
    return isinstance(error, (ps.TransportError, ps.ProtocolError))


class Rate:
    """So many messages a minute. For one thread. Times are seconds of a monotonic ``clock``."""

    def __init__(self, rate: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._gap = 60.0 / rate if rate else 0.0
        self._clock = clock
        self._next = clock()

    def wait(self) -> float:
        """Seconds until the next message may go; 0.0 now."""
        return max(0.0, self._next - self._clock())

    def take(self) -> None:
        """A message goes out: the next one not before its turn. What was not used is not saved up."""
        self._next = max(self._next, self._clock()) + self._gap


class Trouble:
    """The server's trouble, timed for the whole run: one pause for all rows, and an end to patience. For one thread.

    Reading and writing are timed apart: a server that shows everything and takes nothing is in trouble, too.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[bool, float] = {}  # by "was it a write": since when that has failed
        self._last: dict[bool, BaseException] = {}
        self._paused_until = clock()
        self._pause = 0.0
        self._ended: float | None = None  # when the last trouble was over
        self.writes = 0  # that went well

    def __bool__(self) -> bool:
        return bool(self._since)

    def failed(self, error: BaseException, *, write: bool, seconds: float = 0.0) -> None:
        """The server was away, or refused for now; it took ``seconds`` to find out. Pauses grow, one by one."""
        limited = isinstance(error, ps.RateLimitedError)
        if not self._since:
            logger.warning("all rows wait: %s", error)
        self._since.setdefault(write, self._clock() - seconds)
        self._last[write] = error
        wish = min(getattr(error, "retry_after", None) or 0.0, _LONGEST_WISH)
        if self.pause_left() <= 0:  # else this is one of several that were under way at the first one
            first, longest = (_FIRST_PAUSE, _LONGEST_PAUSE)
            if limited:
                first, longest = (_FIRST_LIMITED_PAUSE, _LONGEST_LIMITED_PAUSE)
            self._pause = min(max(2 * self._pause, first), longest)
            self._paused_until = self._clock() + self._pause
        self._paused_until = max(self._paused_until, self._clock() + wish)

    def succeeded(self, *, write: bool) -> None:
        """The server has answered. (A write that went well says that reading works, too.)"""
        self.writes += write
        if not self._since:
            return
        self._since.pop(False, None)
        if write:
            self._since.pop(True, None)
        if not self._since:
            self._pause, self._ended = 0.0, self._clock()
            logger.info("the server answers again; the rows go on")

    def pause_left(self) -> float:
        """Seconds of the common pause that are left."""
        return max(0.0, self._paused_until - self._clock())

    def gave_up(self) -> BaseException | None:
        """What ends the run, if the trouble has lasted too long."""
        for write, since in self._since.items():
            limited = isinstance(self._last[write], ps.RateLimitedError)
            if self._clock() - since >= (PATIENCE_LIMITED if limited else PATIENCE):
                return self._last[write]
        return None

    def was_there(self, seconds: float) -> bool:
        """Whether there is trouble now, or was within the last ``seconds``."""
        return bool(self._since) or (self._ended is not None and self._clock() - self._ended <= seconds)

    def text(self) -> str:
        """A few words for a progress line; empty if there is no trouble."""
        if not self._since:
            return ""
        since = min(self._since.values())
        error = self._last[min(self._since, key=lambda write: self._since[write])]
        left = self.pause_left()
        following = f"next in {left:.0f} s" if left >= 0.5 else "trying"
        if isinstance(error, ps.RateLimitedError):
            return f"429: {following}"
        what = f"server answers {error.status}" if isinstance(error, ps.ApiError) else "server not reached"
        return f"{what} for {self._clock() - since:.0f} s: {following}"
