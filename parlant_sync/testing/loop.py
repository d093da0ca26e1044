"""One event loop in one thread: everything the server knows is touched there only, so nothing here needs a lock."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _OwnClockLoop(asyncio.SelectorEventLoop):
    """An event loop whose time goes on while a test has frozen or moved that of ``time``.

    The clock is kept out of the module's names and away from ``time.monotonic``: freezegun replaces both.
    """

    if hasattr(time, "CLOCK_MONOTONIC"):
        _clock = staticmethod(functools.partial(time.clock_gettime, time.CLOCK_MONOTONIC))
    else:
        _clock = staticmethod(time.monotonic)

    def time(self) -> float:
        return self._clock()


class LoopThread:
    """An event loop in a thread of its own, that other threads ask to do things and wait for."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        # Guards _open: what is handed in while it is True is in the loop before a stop cancels all tasks there.
        self._lock = threading.Lock()
        self._open = False
        self._watchers: list[tuple[Callable[[], bool], concurrent.futures.Future[None]]] = []

    @property
    def running(self) -> bool:
        """Whether the loop runs, in this process (not in a child forked from it)."""
        return self._thread is not None and self._pid == os.getpid()

    def start(self) -> None:
        """Starts the thread; returns when the loop runs."""
        if self.running:
            raise RuntimeError("already started")
        ready = threading.Event()
        loop = _OwnClockLoop()

        def main() -> None:
            asyncio.set_event_loop(loop)
            loop.call_soon(ready.set)
            loop.run_forever()

        # Daemon: a test that forgot to stop its server must not keep the interpreter from exiting.
        thread = threading.Thread(target=main, name=self._name, daemon=True)
        thread.start()
        ready.wait()
        self._loop, self._thread, self._pid = loop, thread, os.getpid()
        with self._lock:
            self._open = True

    def stop(self) -> None:
        """Cancels all tasks, lets them end, ends the thread. Does nothing if it is not running."""
        if not self.running:
            return
        with self._lock:
            if not self._open:
                return
            self._open = False
        assert self._loop is not None and self._thread is not None
        # Runs after whatever was asked for before.
        asyncio.run_coroutine_threadsafe(self._cancel_all(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None
        for _, future in self._watchers:
            future.cancel()
        self._watchers.clear()

    async def _cancel_all(self) -> None:
        me = asyncio.current_task()
        # Twice: a task may answer its cancellation by starting another.
        for _ in range(2):
            tasks = [t for t in asyncio.all_tasks() if t is not me]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Runs `function` in the loop's thread and returns its result; right here if the loop does not run."""
        if not self.running or threading.current_thread() is self._thread:
            return function(*args)

        async def run() -> T:
            return function(*args)

        return self.run(run())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the loop, from another thread, and waits for its result."""
        with self._lock:
            if not self._open:
                coroutine.close()
                raise RuntimeError("the server is being stopped")
            assert self._loop is not None
            future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("the server was stopped meanwhile") from None

    def wait_until(self, predicate: Callable[[], bool], timeout: float, what: str) -> None:
        """Waits, in another thread, until `predicate` holds; it is asked in the loop's thread after each change.

        ``TimeoutError`` after `timeout` seconds, naming `what` was waited for.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("this would wait for itself: not from the server's own thread")
        future: concurrent.futures.Future[None] = concurrent.futures.Future()

        def begin() -> None:
            if predicate():
                future.set_result(None)
            else:
                self._watchers.append((predicate, future))

        self.call(begin)
        if not self.running and not future.done():
            raise RuntimeError(f"the server is stopped: {what}: that cannot happen any more")
        try:
            future.result(timeout)
        except concurrent.futures.TimeoutError:
            raise TimeoutError(f"{what}: not within {timeout:g} s") from None
        except concurrent.futures.CancelledError:
            raise RuntimeError(f"the server was stopped while waiting for: {what}") from None
        finally:
            with contextlib.suppress(RuntimeError):
                self.call(self._forget, future)

    def _forget(self, future: concurrent.futures.Future[None]) -> None:
        self._watchers = [w for w in self._watchers if w[1] is not future]

    def changed(self) -> None:
        """Something changed (in the loop's thread): what is waited for is checked again."""
        for predicate, future in list(self._watchers):
            if future.done():
                continue
            try:
                if predicate():
                    future.set_result(None)
            except Exception as error:  # of a function that a test gave: the waiting thread gets it
                future.set_exception(error)
