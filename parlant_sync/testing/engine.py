"""The engine: starts turns, one per session at a time, and knows what a newer message does to the one that runs."""

from __future__ import annotations

import asyncio

from .agents import HumanScript, Plan
from .compass import CompassTurn
from .gates import Gates
from .store import Event, Session, Store
from .turns import Stage, Turn


class Engine(Stage):
    """Runs the turns of all sessions between two restarts of a server."""

    def __init__(self, store: Store, gates: Gates, pace: float, cancel_timeout: float) -> None:
        super().__init__(store, gates, pace)
        self._cancel_timeout = cancel_timeout
        self._turns: dict[str, Turn] = {}  # those that run, by their session's id
        self._dispatching = 0
        self._one_at_a_time = asyncio.Lock()  # guards: the change from one turn to the next, server-wide as in Parlant

    @property
    def busy(self) -> int:
        """How many turns (and leftovers of cancelled ones) are running, or waiting for an older one to end."""
        return len(self.running) + self._dispatching

    async def dispatch(self, session: Session, trace: str) -> None:
        """Starts the session's next turn. Returns when it has begun, which may have to wait for the old turn."""
        self._dispatching += 1
        try:
            async with self._one_at_a_time:
                old = self._turns.pop(session.id, None)
                if old is not None:
                    await old.interrupt()
                if session.customer_id not in self.store.customers:
                    return
                if session.mode == "manual":
                    self._ask_human(session)
                if session.mode != "manual" or self.store.agents[session.agent_id].engine == "compass":
                    self._begin(session, self._turn(session, trace, session.last_message("customer")))
        finally:
            self._dispatching -= 1
            self.store.changed()

    def _begin(self, session: Session, turn: Turn) -> None:
        def over(task: asyncio.Task[None]) -> None:
            if self._turns.get(session.id) is turn:
                del self._turns[session.id]
            session.changed()

        task = turn.begin()
        if task is not None:
            self._turns[session.id] = turn
            task.add_done_callback(over)

    def _ask_human(self, session: Session) -> None:
        human, message = self.store.human, session.last_message("customer")
        if human is not None and message is not None:
            self.spawn(self._human_answers(session, human, human.next(session.id, message), message))

    async def _human_answers(self, session: Session, human: HumanScript, plan: Plan, message: str) -> None:
        for text in plan.answer(message):
            await self.wait_at("answer", plan)
            if not session.gone:
                self.human_says(session, text, human.name, human.on_behalf)

    def human_says(self, session: Session, text: str, name: str, on_behalf: bool) -> None:
        """Stores a human agent's message."""
        agent = self.store.agents[session.agent_id]
        who = {"id": agent.id, "display_name": agent.name} if on_behalf else {"id": None, "display_name": name}
        source = "human_agent_on_behalf_of_ai_agent" if on_behalf else "human_agent"
        session.add("message", source, {"message": text, "participant": who}, self.store.trace_of_request())

    async def utter(self, session: Session, trace: str, actions: list[str]) -> Event:
        """Speaks without a customer message. Returns the first message's event when the turn is over."""
        action = "; ".join(actions)
        task = self.spawn(self._turn(session, trace, action).utter(action))
        await asyncio.shield(task)
        messages = [e for e in session.since(kinds=["message"]) if e.trace == trace]
        if not messages:
            raise RuntimeError("nothing was said")
        return messages[0]

    async def cancel(self, session: Session) -> Event | None:
        """Ends the running turn at once or after its step (4.0). Returns its `cancelled`; None if nothing runs.

        Raises TimeoutError if the step takes too long; the turn is cancelled all the same.
        """
        turn = self._turns.get(session.id)
        if turn is None:
            return None
        turn.stop()
        if not await session.wait(lambda: turn.cancelled is not None or turn.over, self._cancel_timeout):
            raise TimeoutError
        return turn.cancelled

    def _turn(self, session: Session, trace: str, message: str | None) -> Turn:
        agent = self.store.agents[session.agent_id]
        kind = CompassTurn if agent.engine == "compass" else Turn
        return kind(self, session, agent, agent.next(session.id, message), trace)
