"""The thread of a batch, and waiting for the last moments of one that was told to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

# More than an ending takes: the client's close, and a moment for requests that cannot be woken.
_ENDING = 10.0


class BatchThread(threading.Thread):
    """Daemon: what it has not finished is in the journal. It ends when told to (``stopping``, one-way), or through."""

    def __init__(self, run: Callable[[], None], results: Path | None) -> None:
        super().__init__(target=run, name="parlant-sync-batch", daemon=True)
        self.results = results
        self.stopping = False


def wait_for_the_ending(results: Path) -> None:
    """A batch that was let go of in the middle (``break`` in a loop over it) has its files for a moment yet."""
    for thread in threading.enumerate():
        if isinstance(thread, BatchThread) and thread.stopping and thread.results == results:
            thread.join(_ENDING)
