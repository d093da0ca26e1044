"""Waiting: for a condition, for a call in another thread; and a clock that a test moves."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
# Long enough for a busy machine; what it bounds is normally there in well under a second.
PATIENCE = 20.0


def wait_until(
    condition: Callable[[], T], what: str | Callable[[], object] = "the condition", timeout: float = PATIENCE
) -> T:
    """Looks until ``condition()`` is true, and returns it; after ``timeout`` seconds it fails with ``what``."""
    deadline = time.monotonic() + timeout
    pause = threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not in {timeout:g} s: {what() if callable(what) else what}"
        pause.wait(0.005)
    return found


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails if the block has taken longer."""
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took < seconds, f"it took {took:.2f} s, not less than {seconds} s"


def must_end(call: Callable[..., object], *arguments: object, timeout: float = 5.0) -> None:
    """Calls it in a thread of its own, and fails if that has not ended after ``timeout`` seconds."""
    thread = threading.Thread(target=call, args=arguments, daemon=True)
    thread.start()
    thread.join(timeout)
    assert not thread.is_alive(), f"{call} has not ended in {timeout} s"


class Background(Generic[T]):
    """A call that runs meanwhile in a thread of its own."""

    def __init__(self, function: Callable[..., T], *arguments: Any, **options: Any) -> None:
        self._result: list[T] = []
        self._error: list[BaseException] = []

        def run() -> None:
            try:
                self._result.append(function(*arguments, **options))
            except BaseException as error:
                self._error.append(error)

        # Daemon: a test that failed meanwhile must end.
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, timeout: float = 2 * PATIENCE) -> T:
        """What the call returned or raised, when it has ended."""
        error = self.error(timeout)
        if error is not None:
            raise error
        return self._result[0]

    def error(self, timeout: float = 2 * PATIENCE) -> BaseException | None:
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"still running after {timeout:g} s"
        return self._error[0] if self._error else None


class Clock:
    """Seconds, as ``time.monotonic()``."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
