"""What a test writes into a server, and reads out of it, past its API: agents, customers, sessions and events."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .agents import AgentScript, CompositionMode, check_json
from .engine import Engine
from .event import Event
from .loop import LoopThread
from .routes import Routes
from .store import MAIN, Store
from .versions import Version


class Backdoor:
    """The part of :class:`FakeServer` that knows what is in it. All methods may be called from any thread."""

    _loop: LoopThread
    _store: Store
    _engine: Engine
    _routes: Routes
    _version: Version

    # --- who is there

    def agent(
        self,
        id: str,
        name: str | None = None,
        description: str | None = None,
        *,
        composition_mode: CompositionMode | None = None,
        preamble: bool | None = None,
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

        Raises ValueError if the agent exists already and is of another kind.
        """
        check_json([id, name, description], "the agent")

        def get() -> AgentScript:
            found = self._store.agents.get(id)
            if found is None:
                called = name or id.replace("-", " ").replace("_", " ").title()
                found = AgentScript(id, called, description, composition_mode or "canned_fluid", preamble)
                self._store.agents[id] = found
            elif composition_mode not in (None, found.composition_mode) or preamble not in (None, found.wants_preamble):
                raise ValueError(f"agent {id!r} exists already, as a {found.composition_mode} agent")
            return found

        return self._loop.call(get)

    def customer(self, id: str, name: str) -> None:
        """A customer who is known. Sessions of unknown ones are made, but never get an answer."""
        check_json([id, name], "the customer")
        self._loop.call(self._store.customers.__setitem__, id, name)

    # --- sessions, from behind the API

    @property
    def sessions(self) -> dict[str, dict[str, Any]]:
        """All sessions as the API shows them, by id (a copy)."""
        return self._loop.call(lambda: {s.id: s.dto() for s in self._store.sessions.values()})

    def create_session(self, agent_id: str, customer_id: str = "guest", *, title: str | None = None) -> str:
        """Makes a session (and the agent, where it is not there) and gives its id."""
        self.agent(agent_id)
        return self._loop.call(lambda: self._store.create(agent_id, customer_id, title, {}).id)

    def delete_session(self, session_id: str) -> None:
        """Deletes a session; its running polls get their 404 at once."""
        self._loop.call(lambda: self._store.delete(self._store.session(session_id)))

    def set_mode(self, session_id: str, mode: str) -> None:
        """``"manual"``: from the next message on the agent keeps silent; ``"auto"``."""
        self._loop.call(lambda: setattr(self._store.session(session_id), "mode", mode))

    def events(self, session_id: str) -> list[dict[str, Any]]:
        """The events of a session as the API shows them (a copy)."""
        return self._loop.call(lambda: copy.deepcopy([e.dto() for e in self._store.session(session_id).events]))

    def say(self, session_id: str, text: str, *, metadata: Mapping[str, Any] | None = None) -> None:
        """A customer's message from somewhere else: as if another process had posted it. Does not wait for the turn."""
        if not self._loop.running:
            raise RuntimeError("the server must be running for that: a message starts a turn")
        check_json([text, dict(metadata or {})], "the message")

        def post() -> None:
            session = self._store.session(session_id)
            message = self._routes.events.customer_message(session, text, dict(metadata or {}))
            self._engine.spawn(_nothing(message))

        self._loop.call(post)

    def human(self, session_id: str, text: str, name: str = "Dana", *, on_behalf: bool = False) -> None:
        """A human agent's message; `on_behalf`: in the name of the AI agent."""
        check_json([text, name], "the message")

        def post() -> None:
            session = self._store.session(session_id)
            agent = self._store.agents[session.agent_id]
            who = {"id": agent.id, "display_name": agent.name} if on_behalf else {"id": None, "display_name": name}
            source = "human_agent_on_behalf_of_ai_agent" if on_behalf else "human_agent"
            session.add("message", source, {"message": text, "participant": who}, self._routes.events.new_trace())

        self._loop.call(post)

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
        """Stores any event, of any kind, and gives its offset; an `offset` of your own may leave a gap, or repeat."""
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
        """Adds so many events at once; `make` gives the data of each from its number."""

        def add() -> None:
            session = self._store.session(session_id)
            session.extend(kind, "customer_ui", [make(i) if make else {"n": i} for i in range(count)])

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
            session.remove(session.since(min_offset), self._version.reuses_offsets)

        self._loop.call(remove)


async def _nothing(something: Any) -> None:
    await something
