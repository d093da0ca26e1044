"""The threads of a batch: the one that drives it, and a pool of daemon threads that do the waiting."""

from __future__ import annotations

import queue
import threading
import time
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


_Job = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Pool:
    """At most ``size`` threads, started as they are needed. For one owner: ``submit`` is not for several threads.

    Daemon threads: those of ``concurrent.futures`` would keep Python from exiting while a reply is waited for. If the
    system starts no further thread, fewer do the work; if it does not start even one, ``submit`` raises RuntimeError.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pending = 0  # jobs handed in whose end the owner has not yet seen; only the owner counts

    def submit(self, call: Callable[..., Any], *arguments: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._pending += 1
        if self._pending > len(self._threads) and len(self._threads) < self._size:
            thread = threading.Thread(
                target=_work, args=(self._jobs,), name=f"parlant-sync-batch-{len(self._threads)}", daemon=True
            )
            try:
                thread.start()
            except RuntimeError:
                if not self._threads:
                    raise
                self._size = len(self._threads)  # the system has no more: those that run do it all
            else:
                self._threads.append(thread)
        self._jobs.put((future, call, arguments))
        return future

    def done(self) -> None:
        """The owner has seen the end of a job."""
        self._pending -= 1

    def stop(self, timeout: float) -> None:
        """Take no further jobs; wait at most ``timeout`` seconds for those that run."""
        for _ in self._threads:
            self._jobs.put(None)
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))


def _work(jobs: queue.SimpleQueue[_Job | None]) -> None:
    while True:
        job = jobs.get()
        if job is None:
            return
        future, call, arguments = job
        if not future.set_running_or_notify_cancel():
            continue
        try:
            result = call(*arguments)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        # Neither the job nor its result stays alive while the thread waits for the next one.
        del job, future, call, arguments
