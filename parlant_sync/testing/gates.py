"""Gates at which turns wait until a test lets them pass."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable


class Gates:
    """Named gates at which turns wait, and the pause of them all."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._open: set[str] = set()
        self._passes: Counter[str] = Counter()
        self._queues: dict[str, list[asyncio.Future[None]]] = {}
        self._paused: list[asyncio.Future[None]] | None = None

    def waiting(self, gate: str) -> int:
        """How many turns wait there."""
        return len(self._queues.get(gate, ()))

    def release(self, gate: str, count: int | None) -> None:
        """Lets `count` turns pass: those that wait, then the next ones. None opens the gate for good."""
        if count is None:
            self._open.add(gate)
        else:
            self._passes[gate] += count
        queue = self._queues.get(gate, [])
        while queue and (gate in self._open or self._passes[gate] > 0):
            self._passes[gate] -= gate not in self._open
            waiter = queue.pop(0)
            if not waiter.done():
                waiter.set_result(None)

    def shut(self, gate: str) -> None:
        """Closes it again."""
        self._open.discard(gate)
        self._passes.pop(gate, None)

    async def wait(self, gate: str) -> None:
        """Waits until it lets this one pass."""
        if gate in self._open:
            return
        if self._passes[gate] > 0:
            self._passes[gate] -= 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._queues.setdefault(gate, [])
        queue.append(waiter)
        self._changed()
        try:
            await waiter
        finally:
            if waiter in queue:
                queue.remove(waiter)

    def pause(self) -> None:
        """Stops all turns where they are."""
        if self._paused is None:
            self._paused = []

    def resume(self) -> None:
        """Ends the pause."""
        waiters, self._paused = self._paused or [], None
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def not_paused(self) -> None:
        """Waits while the turns are paused."""
        if self._paused is not None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._paused.append(waiter)
            await waiter
