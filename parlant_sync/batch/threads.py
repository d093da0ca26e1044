"""The threads of a batch: the one that drives it, and one for each request that is under way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

# Longer than an ending takes: the client's close, and a moment for requests that cannot be interrupted.
_ENDING = 10.0


class BatchThread(threading.Thread):
    """The driver. Daemon: what it has not finished is in the journal. ``stopping`` is one-way."""

    def __init__(self, run: Callable[[], None], results: Path | None) -> None:
        super().__init__(target=run, name="parlant-sync-batch", daemon=True)
        self.results = results
        self.stopping = False


def wait_for_the_ending(results: Path) -> None:
    """Wait for a batch on the same results that was dropped in the middle (``break`` in a loop over it)."""
    for thread in threading.enumerate():
        if isinstance(thread, BatchThread) and thread.stopping and thread.results == results:
            thread.join(_ENDING)


class RequestThread(threading.Thread):
    """Makes one call, for ``future``.

    Daemon: threads of ``concurrent.futures`` would keep Python from exiting while a reply is waited for.
    """

    def __init__(self, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        super().__init__(name="parlant-sync-batch-request", daemon=True)
        self.future: Future[Any] = Future()
        self._call, self._arguments = call, arguments

    def run(self) -> None:
        try:
            result = self._call(*self._arguments)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)
