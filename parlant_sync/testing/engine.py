"""The engine: starts turns, one per session at a time."""

from __future__ import annotations

import asyncio
from typing import Any

from .event import Event
from .gates import Gates
from .store import Session, Store
from .turns import Turn


class Engine:
    """Starts turns, one per session at a time, and knows what a newer message does to the one that runs."""

    def __init__(self, store: Store, gates: Gates, pace: float) -> None:
        self.store = store
        self.gates = gates
        self.pace = pace
        self.stopping = False
        self._running: set[asyncio.Task[None]] = set()
        self._dispatching = 0
        self._one_at_a_time = asyncio.Lock()  # guards: the change from one turn to the next, server-wide as in Parlant

    @property
    def busy(self) -> int:
        """How many turns (and leftovers of cancelled ones) are running, or waiting for an older one to end."""
        return len(self._running) + self._dispatching

    async def dispatch(self, session: Session, trace: str) -> None:
        """A new turn for that session; returns when it has begun, which may wait for the old one."""
        self._dispatching += 1
        try:
            async with self._one_at_a_time:
                if session.turn is not None:
                    await session.turn.interrupt()
                if session.mode == "manual" or session.customer_id not in self.store.customers:
                    session.turn = None
                    return
                session.turn = Turn(self, session, self.store.agents[session.agent_id].next(), trace)
                session.turn.begin()
        finally:
            self._dispatching -= 1
            self.store.changed()

    async def utter(self, session: Session, trace: str, actions: list[str]) -> Event:
        """Speaks without a customer message; gives the first message's event when the turn is over."""
        turn = Turn(self, session, self.store.agents[session.agent_id].next(), trace)
        task = self.spawn(turn.utter("; ".join(actions)))
        await asyncio.shield(task)
        messages = [e for e in session.since(kinds=["message"]) if e.trace == trace]
        if not messages:
            raise RuntimeError("nothing was said")
        return messages[0]

    def spawn(self, coroutine: Any) -> asyncio.Task[None]:
        """Runs a turn, or a part of one, in the background."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen: what a turn that could not even fail properly leaves is nobody's
        self.store.changed()
