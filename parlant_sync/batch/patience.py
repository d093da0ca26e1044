"""How long the server's trouble is borne: by a row, and by the batch."""

from __future__ import annotations

import time

from parlant_sync.batch.items import Item
from parlant_sync.batch.rate import Rate
from parlant_sync.batch.worker import Answer

# How long a server may be out of reach, or refuse by 429, before the batch gives up (or the row, if others go on).
PATIENCE = 60.0
PATIENCE_LIMITED = 300.0


class Patience:
    """For the batch's own thread alone."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._last_success = time.monotonic()

    def succeeded(self, item: Item) -> None:
        """The server answers again."""
        item.trouble_since = None
        self._last_success = time.monotonic()
        self._rate.success()

    def is_over(self, item: Item, answer: Answer) -> bool:
        """Whether the server has been away for too long, and for all rows."""
        since = item.trouble_since = item.trouble_since or time.monotonic() - answer.duration
        return time.monotonic() - since >= _limit(answer) and self._last_success < since

    def may_wait(self, item: Item, answer: Answer) -> bool:
        """Whether the row waits for better times, together with all others. (To be asked after ``is_over()``.)"""
        self._rate.trouble(limited=answer.status == "limited", wish=getattr(answer.cause, "retry_after", None))
        item.deadline = None
        assert item.trouble_since is not None
        return time.monotonic() - item.trouble_since < _limit(answer)


def _limit(answer: Answer) -> float:
    return PATIENCE_LIMITED if answer.status == "limited" else PATIENCE
