"""What a poller tells of itself: numbers, and warnings in the log.

The log is warned of an outage or a backlog that lasts. Once, and once more when it is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime

logger = logging.getLogger(__name__)

# Polls that have failed for so many seconds.
LONG_OUTAGE = 60.0
# How full the fullest mailbox of a session is, measured by its limit: full, and so empty that it is over. The gap
# between the two keeps a reader at the edge from filling the log.
FULL, EMPTIED = 0.5, 0.25


class PollCounts:
    """Written by the poller's thread alone; a reader sees each number whole, if not all of one moment."""

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

    def failed(self, error: Exception) -> None:
        self.failures += 1
        self.consecutive_failures += 1
        self.last_error = str(error)

    def recovered(self) -> int:
        """How many failures that was after."""
        failures, self.consecutive_failures = self.consecutive_failures, 0
        self.reconnects += 1
        return failures


class PollLog:
    """Of one session, for its poller's thread alone."""

    def __init__(self, session_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._session_id = session_id
        self._clock = clock
        self._failing_since: float | None = None
        self._outage_told = False
        self._backlog_told = False

    def failed(self, failures: int, error: BaseException) -> None:
        """A poll failed; ``failures`` have in a row."""
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
        logger.debug("session %s: poll failed (%d in a row): %s", self._session_id, failures, error)
        lasted = now - self._failing_since
        if lasted >= LONG_OUTAGE and not self._outage_told:
            self._outage_told = True
            logger.warning(
                "session %s: no poll has succeeded for %.0f s (%d failures; the last: %s); trying on",
                self._session_id,
                lasted,
                failures,
                error,
            )

    def recovered(self, failures: int) -> None:
        """A poll succeeded after that many failures."""
        level = logging.WARNING if self._outage_told else logging.DEBUG
        lasted = 0.0 if self._failing_since is None else self._clock() - self._failing_since
        self._failing_since, self._outage_told = None, False
        logger.log(level, "session %s: polling again after %.0f s, %d failures", self._session_id, lasted, failures)

    def ended(self, cause: BaseException) -> None:
        """There will be no more polls. An outage that was told of is over by that, too."""
        level = logging.WARNING if self._outage_told else logging.INFO
        logger.log(level, "session %s: polling ended: %s", self._session_id, cause)

    def backlog(self, pressure: float, waiting: int) -> None:
        """What the readers have not taken by the time of the next poll's answer."""
        if not self._backlog_told and pressure > FULL:
            self._backlog_told = True
            logger.warning(
                "session %s: a reader does not keep up (%d events wait); what exceeds backlog_limit is let go, "
                "and read again from the server",
                self._session_id,
                waiting,
            )
        elif self._backlog_told and pressure <= EMPTIED:
            self._backlog_told = False
            logger.warning("session %s: its readers keep up again", self._session_id)
