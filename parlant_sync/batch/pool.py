"""Threads that do what they are handed. Daemon threads, unlike those of ``concurrent.futures``, which would keep
Python from exiting for as long as a reply is waited for."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

_Job = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Pool:
    """At most ``size`` threads, started as they are needed. For one owner: ``submit`` is not for several threads.

    Where no further thread can be started, fewer do the work; where not even one, ``submit`` raises RuntimeError.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pending = 0  # jobs handed in and not yet seen to be done; only the owner counts

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
        """The owner has taken a job's end to its notice."""
        self._pending -= 1

    def stop(self, timeout: float) -> None:
        """No further jobs; waits for those that run, so long at most."""
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
        # Neither the job nor what it gave stays alive for as long as the next one is waited for.
        del job, future, call, arguments
