"""What a test does with a ``FakeServer``: it writes agents and people, looks into sessions, and waits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, overload

from .agents import AgentScript, CompositionMode, EngineName, HumanScript
from .api import Api
from .engine import Engine
from .gates import Gates
from .given import check_json
from .loop import LoopThread
from .store import MAIN, Event, Store


class SessionControls:
    """The agents, people and sessions of a ``FakeServer``, and its turns. All methods may be called from any thread."""

    _loop: LoopThread
    _store: Store
    _engine: Engine
    _gates: Gates
    _api: Api

    # --- who is there

    def agent(
        self,
        id: str,
        name: str | None = None,
        description: str | None = None,
        *,
        composition_mode: CompositionMode | None = None,
        preamble: bool | None = None,
        engine: EngineName | None = None,
        shared: bool | None = None,
    ) -> AgentScript:
        """The agent of that id, made when it is first asked for: its script is written on it.

        Args:
            id: the agent's id.
            name: the name that the API shows; otherwise it is made from the id.
            description: what the API shows as its description.
            composition_mode: ``"canned_fluid"`` (the default, as for agents of the Python SDK), ``"fluid"`` (as for
                agents made with ``POST /agents``), ``"strict"`` or ``"composited"``.
            preamble: whether the agent's policy wants a preamble. Fluid and strict agents, whose policy does by
                default, only send the bare ``ready`` of one; for the others see ``with_preamble()``.
            engine: which of the two engines of 4.0 runs its turns: ``"compass"`` (the default there) or ``"alpha"``,
                which is that of all older versions, and of agents made with ``POST /agents``.
            shared: all sessions use up one script, in the order in which their turns begin. Otherwise each session
                begins at the first turn (the default).

        Raises ValueError if the agent exists already and is of another kind.
        """
        check_json([id, name, description], "the agent")

        def get() -> AgentScript:
            found = self._store.agents.get(id)
            if found is None:
                found = self._store.agents[id] = AgentScript(
                    id,
                    name or id.replace("-", " ").replace("_", " ").title(),
                    description,
                    composition_mode=composition_mode or "canned_fluid",
                    wants_preamble=preamble,
                    engine=engine or ("compass" if self._store.version.compass else "alpha"),
                )
            elif (
                composition_mode not in (None, found.composition_mode)
                or preamble not in (None, found.wants_preamble)
                or engine not in (None, found.engine)
            ):
                raise ValueError(f"agent {id!r} exists already, as a {found.composition_mode} agent")
            if shared is not None:
                found.shared = shared
            return found

        return self._loop.call(get)

    def customer(self, id: str, name: str) -> None:
        """Makes a customer known. Up to 3.3, sessions of unknown ones are made, but never get an answer."""
        check_json([id, name], "the customer")
        self._loop.call(self._store.customers.__setitem__, id, name)

    # --- sessions, past the API

    @property
    def sessions(self) -> dict[str, dict[str, Any]]:
        """All sessions as the API shows them, by id (a copy)."""
        return self._loop.call(lambda: {s.id: s.dto() for s in self._store.sessions.values()})

    def create_session(self, agent_id: str, customer_id: str = "guest", *, title: str | None = None) -> str:
        """Makes a session and returns its id. Makes the agent, too, if the server has none with that id."""
        self.agent(agent_id)
        return self._loop.call(lambda: self._store.create(agent_id, customer_id, title, {}).id)

    def delete_session(self, session_id: str) -> None:
        """Deletes a session; its running polls get their 404 at once."""
        self._loop.call(lambda: self._store.delete(self._store.session(session_id)))

    def set_mode(self, session_id: str, mode: str) -> None:
        """``"manual"``: from the next message on, the agent is silent. ``"auto"``: it answers."""
        self._loop.call(lambda: setattr(self._store.session(session_id), "mode", mode))

    def events(self, session_id: str) -> list[dict[str, Any]]:
        """The events of a session as the API shows them (a copy)."""
        return self._loop.call(lambda: copy.deepcopy([e.dto() for e in self._store.session(session_id).events]))

    def say(self, session_id: str, text: str, *, metadata: Mapping[str, Any] | None = None) -> None:
        """A customer's message, as if another process had posted it. Does not wait for the turn."""
        if not self._loop.running:
            raise RuntimeError("the server must be running for that: a message starts a turn")
        check_json([text, dict(metadata or {})], "the message")

        def post() -> None:
            session = self._store.session(session_id)

            async def message() -> None:
                await self._api.events.customer_message(session, text, dict(metadata or {}))

            self._engine.spawn(message())

        self._loop.call(post)

    @overload
    def human(self, session_id: str, text: str, name: str = ..., *, on_behalf: bool = ...) -> None: ...
    @overload
    def human(self, *, name: str = ..., on_behalf: bool = ...) -> HumanScript: ...
    def human(
        self, session_id: str | None = None, text: str | None = None, name: str = "Dana", *, on_behalf: bool = False
    ) -> HumanScript | None:
        """A human agent. With a session and a text: posts this message now, in that person's name.

        Without them: returns the script by which a human answers customers in all sessions in manual mode, as
        ``server.human(name="Dana").replies("Dana here.")``. `on_behalf`: in the name of the AI agent.
        """
        check_json([text, name], "the message")
        if session_id is None or text is None:
            if session_id is not None:
                raise ValueError("human() needs a text for this session; without a session it returns a script")
            script = HumanScript(name, on_behalf)
            self._loop.call(setattr, self._store, "human", script)
            return script

        def post() -> None:
            self._engine.human_says(self._store.session(session_id), text, name, on_behalf)

        return self._loop.call(post)

    def add_event(
        self,
        session_id: str,
        kind: str = "custom",
        data: Any = None,
        *,
        source: str = "ai_agent",
        trace: str = MAIN,
        metadata: Mapping[str, Any] | None = None,
        offset: int | None = None,
    ) -> int:
        """Stores any event, of any kind, and returns its offset. An `offset` of yours may leave a gap, or repeat."""
        value = {} if data is None else data

        def add() -> Event:
            session = self._store.session(session_id)
            event = session.add(kind, source, value, trace, dict(metadata or {}), offset)
            event.lenient = True
            return event

        return self._loop.call(add).offset

    def fill(
        self, session_id: str, count: int, *, kind: str = "custom", make: Callable[[int], Any] | None = None
    ) -> None:
        """Adds so many events at once; `make` returns the data of each from its number."""

        def add() -> None:
            session = self._store.session(session_id)
            for number in range(count):
                session.add(kind, "customer_ui", make(number) if make else {"n": number})

        self._loop.call(add)

    def drop_events(self, session_id: str, offsets: Iterable[int]) -> None:
        """Deletes events in the middle: a gap."""

        def drop() -> None:
            session = self._store.session(session_id)
            wanted = set(offsets)
            session.remove([e for e in session.events if e.offset in wanted], reuse=False)

        self._loop.call(drop)

    def wipe(self, session_id: str, min_offset: int = 0) -> None:
        """Deletes all events from that offset on. Up to 3.2 the offsets are used again, from 3.3 on not."""

        def remove() -> None:
            session = self._store.session(session_id)
            session.remove(session.since(min_offset), self._store.version.reuses_offsets)

        self._loop.call(remove)

    # --- waiting

    @property
    def polls(self) -> int:
        """How many long polls are waiting now."""
        return self._loop.call(self._polls, None)

    def wait_polls(self, count: int = 1, session_id: str | None = None, timeout: float = 5.0) -> None:
        """Waits until so many long polls are waiting (in that session); ``TimeoutError`` after `timeout` seconds."""
        self._loop.wait_until(lambda: self._polls(session_id) >= count, timeout, f"{count} polls waiting")

    def wait_no_polls(self, session_id: str | None = None, timeout: float = 5.0) -> None:
        """Waits until no long poll is waiting; ``TimeoutError`` after `timeout` seconds."""
        self._loop.wait_until(lambda: self._polls(session_id) == 0, timeout, "no poll waiting")

    def _polls(self, session_id: str | None) -> int:
        return sum(s.polls for s in self._store.sessions.values() if session_id in (None, s.id))

    # --- turns

    def wait_idle(self, timeout: float = 5.0) -> None:
        """Waits until no turn is running; ``TimeoutError`` after `timeout` seconds."""
        self._loop.wait_until(lambda: self._engine.busy == 0, timeout, "all turns over")

    def wait_events(self, session_id: str, count: int, timeout: float = 5.0) -> None:
        """Waits until the session holds so many events; ``TimeoutError`` after `timeout` seconds."""
        session = self._loop.call(self._store.session, session_id)
        self._loop.wait_until(lambda: len(session.events) >= count, timeout, f"{count} events")

    def reached(self, gate: str, count: int = 1, timeout: float = 5.0) -> None:
        """Waits until so many turns wait at the gate; ``TimeoutError`` after `timeout` seconds."""
        self._loop.wait_until(lambda: self._gates.waiting(gate) >= count, timeout, f"a turn at the gate {gate!r}")

    def release(self, gate: str, count: int | None = None) -> None:
        """Opens a gate for good, or lets `count` turns pass (those that wait, then the next ones)."""
        self._loop.call(self._gates.release, gate, count)

    def shut(self, gate: str) -> None:
        """Closes a gate that was opened."""
        self._loop.call(self._gates.shut, gate)

    def pause(self) -> None:
        """Stops all turns before their next event."""
        self._loop.call(self._gates.pause)

    def resume(self) -> None:
        """Lets them go on."""
        self._loop.call(self._gates.resume)
