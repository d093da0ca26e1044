"""What a poller reports about itself: numbers, and warnings in the log.

An outage or a backlog that lasts is logged once, and once more when it is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

logger = logging.getLogger(__name__)

# An outage is logged after polls have failed for this many seconds.
LONG_OUTAGE = 60.0
# A backlog is logged if the fullest mailbox of a session is fuller than FULL, and is over at EMPTIED. The gap between
# them keeps a reader at the limit from filling the log.
FULL, EMPTIED = 0.5, 0.25


class PollCounts:
    """Written by the poller's thread alone. A reader sees each number whole, but maybe not all of one moment."""

    def __init__(self) -> None:
        self.polls = 0
        self.idle_polls = 0
        self.events = 0
        self.bytes = 0
        self.reconnects = 0
        self.failures = 0
        self.consecutive_failures = 0
        self.last_poll: datetime | None = None
        self.last_error: str | None = None

    def failed(self, error: BaseException) -> None:
        self.failures += 1
        self.consecutive_failures += 1
        self.last_error = _text(error)

    def recovered(self) -> int:
        """A poll succeeded. Returns how many had failed in a row before it."""
        failures, self.consecutive_failures = self.consecutive_failures, 0
        if failures:
            self.reconnects += 1
        return failures


class PollLog:
    """The log of one session's poller, for its thread alone.

    Logging is the caller's code: a handler or a filter may raise anything (disk full, stderr closed). The poller goes
    on without it.
    """

    def __init__(self, session_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._session_id = session_id
        self._clock = clock
        self._failing_since: float | None = None
        self._outage_logged = False
        self._backlog_logged = False

    def failed(self, failures: int, error: BaseException) -> None:
        """A poll failed; it was the ``failures``-th in a row."""
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        lasted = now - self._failing_since
        if lasted >= LONG_OUTAGE and not self._outage_logged:
            self._outage_logged = True
            _log(
                logging.WARNING,
                "session %s: no poll has succeeded for %.0f s (%d failures; the last: %s); still trying",
                self._session_id,
                lasted,
                failures,
                error,
            )
        else:
            _log(logging.DEBUG, "session %s: poll failed (%d in a row): %s", self._session_id, failures, error)

    def recovered(self, failures: int) -> None:
        """A poll succeeded after that many failures."""
        level = logging.WARNING if self._outage_logged else logging.DEBUG
        lasted = 0.0 if self._failing_since is None else self._clock() - self._failing_since
        self._failing_since, self._outage_logged = None, False
        _log(level, "session %s: polling again after %.0f s, %d failures", self._session_id, lasted, failures)

    def parked(self, idle_timeout: float) -> None:
        _log(logging.DEBUG, "session %s: parked after %g s without use", self._session_id, idle_timeout)

    def ended(self, cause: BaseException) -> None:
        """There will be no more polls. A warning if an outage was logged, which is over now."""
        level = logging.WARNING if self._outage_logged else logging.INFO
        _log(level, "session %s: polling ended: %s", self._session_id, cause)

    def broken(self, error: BaseException) -> None:
        """The poller ended because of a bug."""
        _log(logging.ERROR, "session %s: the poller failed", self._session_id, exc_info=error)

    def backlog(self, pressure: float, waiting: int) -> None:
        """How many events wait in the mailboxes when the next poll is answered."""
        if not self._backlog_logged and pressure > FULL:
            self._backlog_logged = True
            _log(
                logging.WARNING,
                "session %s: a reader does not keep up (%d events wait); what exceeds backlog_limit is dropped, "
                "and read again from the server",
                self._session_id,
                waiting,
            )
        elif self._backlog_logged and pressure <= EMPTIED:
            self._backlog_logged = False
            _log(logging.WARNING, "session %s: its readers keep up again", self._session_id)


def _log(level: int, message: str, session_id: str, *args: Any, exc_info: BaseException | None = None) -> None:
    try:
        logger.log(level, message, session_id, *args, exc_info=exc_info)
    except BaseException:
        pass  # the caller's handler or filter failed; there is no other place to report that


def _text(error: BaseException) -> str:
    """For ``last_error``: also of an error of foreign code whose ``__str__`` fails."""
    try:
        return str(error) or type(error).__name__
    except BaseException:
        return type(error).__name__
