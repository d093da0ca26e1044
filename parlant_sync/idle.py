"""The idle connections of one pool: what urllib3 keeps in a ``queue.LifoQueue``, without that one's lock.

An exception that a signal handler raises (Ctrl-C, Celery's soft time limit) can strike inside ``Condition.__enter__``:
the lock of the queue is then taken for ever, and every later call of the client hangs. Here are only operations of
lists and of ``SimpleQueue``, each whole by itself; which also leaves no lock for a forked child to inherit.
"""

from __future__ import annotations

import queue
from typing import Any


class Idle:
    """Last in, first out; ``get`` never waits. Two that put at once may bring it one over ``maxsize``: no harm."""

    def __init__(self, maxsize: int = 0) -> None:
        self._maxsize = maxsize
        self._items: list[Any] = []

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if 0 < self._maxsize <= len(self._items):
            raise queue.Full
        self._items.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        return len(self._items)


class Waited(Idle):
    """Of a caller's adapter with ``pool_block=True``: ``get`` waits for a connection that another thread returns."""

    def __init__(self, maxsize: int = 0) -> None:
        super().__init__(maxsize)
        self._there: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each item

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item)
        self._there.put(None)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        self._there.get(block, timeout)
        return super().get()
