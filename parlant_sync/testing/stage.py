"""What turns are played on: the store they write to, the gates they wait at, and the tasks that play them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from .gates import Gates
from .store import Store


class Stage:
    """Shared by all turns between two restarts of a server."""

    def __init__(self, store: Store, gates: Gates, pace: float) -> None:
        self.store = store
        self.gates = gates
        self.pace = pace
        self.stopping = False
        self._running: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> int:
        """How many turns (and leftovers of cancelled ones) are running."""
        return len(self._running)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs a turn, or a part of one, in the background."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen: what a turn that could not even fail properly leaves is nobody's
        self.store.changed()
