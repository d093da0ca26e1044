"""The threads of a batch: the one that drives it, and one for each request that is under way."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from parlant_sync.batch.items import Item

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


News = tuple[str, Item | None, "Future[Any]"]  # its stage, its row, what came of it


class Requests:
    """The requests of a batch that are under way, each in a thread of its own, and what came of them.

    For the driver alone, but for ``interrupt``.
    """

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[News | None] = queue.SimpleQueue()
        self._running: dict[Future[Any], threading.Thread] = {}
        self._unstarted: deque[tuple[Future[Any], threading.Thread]] = deque()

    def submit(self, stage: str, item: Item | None, call: Callable[..., Any], *arguments: Any) -> None:
        """Make this call, as soon as there is a thread. Raises RuntimeError if the system starts not even one."""
        future: Future[Any] = Future()
        # Daemon: threads of concurrent.futures would keep Python from exiting while a reply is waited for.
        thread = threading.Thread(
            target=_call, args=(future, call, arguments), name="parlant-sync-batch-request", daemon=True
        )
        self.watch(stage, item, future)
        self._unstarted.append((future, thread))
        self._start()

    def watch(self, stage: str, item: Item | None, future: Future[Any]) -> None:
        """What comes of this future is news, too."""
        future.add_done_callback(lambda done: self._news.put((stage, item, done)))

    def news(self, timeout: float | None) -> Iterator[News]:
        """Wait for something to come, then give all that has. Ends at an ``interrupt``."""
        if timeout:
            timeout = max(timeout, 0.05)  # a SimpleQueue may wait for ever if a very short timeout passes too early
        block = timeout is None or timeout > 0
        with contextlib.suppress(queue.Empty):
            while (news := self._news.get(block, timeout)) is not None:
                block = False
                self._running.pop(news[2], None)
                yield news
                self._start()  # only now: what came counts, also if no thread can be started any more

    def interrupt(self) -> None:
        """``news`` waits no longer. Takes no lock; for any thread, and for a finalizer."""
        self._news.put(None)

    def stop(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds for those that run."""
        until = time.monotonic() + timeout
        for thread in self._running.values():
            thread.join(max(0.0, until - time.monotonic()))

    def _start(self) -> None:
        """Those that the system lets us start; the others when one of these has ended."""
        while self._unstarted:
            future, thread = self._unstarted[0]
            try:
                thread.start()
            except RuntimeError:
                if not self._running:
                    raise
                return
            self._unstarted.popleft()
            self._running[future] = thread


def _call(future: Future[Any], call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        result = call(*arguments)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
