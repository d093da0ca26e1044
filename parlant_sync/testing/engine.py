"""The engine: starts turns, one per session at a time."""

from __future__ import annotations

import asyncio

from .event import Event
from .stage import Stage
from .store import Session
from .turns import Turn


class Engine:
    """Starts turns, one per session at a time, and knows what a newer message does to the one that runs."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._store = stage.store
        self._turns: dict[str, Turn] = {}  # those that run, by their session's id
        self._dispatching = 0
        self._one_at_a_time = asyncio.Lock()  # guards: the change from one turn to the next, server-wide as in Parlant

    @property
    def busy(self) -> int:
        """How many turns (and leftovers of cancelled ones) are running, or waiting for an older one to end."""
        return self.stage.busy + self._dispatching

    async def dispatch(self, session: Session, trace: str) -> None:
        """A new turn for that session; returns when it has begun, which may wait for the old one."""
        self._dispatching += 1
        try:
            async with self._one_at_a_time:
                old = self._turns.pop(session.id, None)
                if old is not None:
                    await old.interrupt()
                if session.mode == "manual" or session.customer_id not in self._store.customers:
                    return
                self._begin(session, self._turn(session, trace))
        finally:
            self._dispatching -= 1
            self._store.changed()

    def _begin(self, session: Session, turn: Turn) -> None:
        def over(task: asyncio.Task[None]) -> None:
            if self._turns.get(session.id) is turn:
                del self._turns[session.id]

        task = turn.begin()
        if task is not None:
            self._turns[session.id] = turn
            task.add_done_callback(over)

    async def utter(self, session: Session, trace: str, actions: list[str]) -> Event:
        """Speaks without a customer message; gives the first message's event when the turn is over."""
        task = self.stage.spawn(self._turn(session, trace).utter("; ".join(actions)))
        await asyncio.shield(task)
        messages = [e for e in session.since(kinds=["message"]) if e.trace == trace]
        if not messages:
            raise RuntimeError("nothing was said")
        return messages[0]

    def _turn(self, session: Session, trace: str) -> Turn:
        return Turn(self.stage, session, self._store.agents[session.agent_id].next(), trace)
