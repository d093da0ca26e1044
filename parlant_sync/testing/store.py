"""Sessions, their events, agents and customers: what the server remembers. Touched in the loop's thread only."""

from __future__ import annotations

import asyncio
import bisect
import random
import string
from collections.abc import Callable, Iterable
from typing import Any

from .agents import AgentScript
from .event import Event, now
from .versions import Version

MAIN = "<main>"
"""The trace of whatever a request stores, on a server that runs on FastAPI 0.137 or newer."""

_ALPHABET = string.digits + string.ascii_letters


class NotFound(Exception):
    """What was asked for is not there; the text is the answer's `detail`."""


class Session:
    """One session with its events in offset order."""

    def __init__(
        self, store: Store, agent_id: str, customer_id: str, title: str | None, metadata: dict[str, Any]
    ) -> None:
        self._store = store
        self.id = store.new_id()
        self.agent_id = agent_id
        self.customer_id = customer_id
        self.title = title
        self.metadata = metadata
        self.labels: list[str] = []
        self.mode = "auto"
        self.consumed = 0
        self.created = now()
        self.gone = False
        self.events: list[Event] = []
        self.all_events: dict[str, Event] = {}
        self.next_offset = 0
        self.agent_states: list[str] = []  # traces of the turns that ran to their end
        self.polls = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def dto(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "id": self.id,
            "agent_id": self.agent_id,
            "customer_id": self.customer_id,
            "creation_utc": self.created,
            "title": self.title,
            "mode": self.mode,
            "consumption_offsets": {"client": self.consumed},
            **({"metadata": self.metadata} if self._store.version.metadata else {}),
            **({"labels": self.labels} if self._store.version.labels else {}),
        }

    def add(
        self,
        kind: str,
        source: str,
        data: Any,
        trace: str = MAIN,
        metadata: dict[str, Any] | None = None,
        offset: int | None = None,
    ) -> Event:
        """Stores an event under the next offset (or an `offset` of the caller's) and wakes whoever waits for it."""
        if self.gone:
            raise NotFound(f"Session not found (id='{self.id}')")
        at = self.next_offset if offset is None else offset
        event = Event(self._store.version, self._store.new_id(), at, kind, source, trace, data, metadata or {})
        bisect.insort(self.events, event, key=lambda e: e.offset)
        self.all_events[event.id] = event
        self.next_offset = max(self.next_offset, at + 1)
        self.changed()
        return event

    def extend(self, kind: str, source: str, values: Iterable[Any]) -> None:
        """Stores many events, and wakes those who wait once."""
        at = now()
        for value in values:
            event = Event(
                self._store.version, self._store.new_id(), self.next_offset, kind, source, MAIN, value, {}, at
            )
            self.events.append(event)
            self.all_events[event.id] = event
            self.next_offset += 1
        self.changed()

    def find(self, event_id: str) -> Event:
        """The event of that id, deleted ones included; raises NotFound."""
        if event_id not in self.all_events:
            raise NotFound(f"Event not found (id='{event_id}')")
        return self.all_events[event_id]

    def since(
        self,
        min_offset: int = 0,
        kinds: Iterable[str] = (),
        source: str | None = None,
        trace: str | None = None,
    ) -> list[Event]:
        """The live events from that offset on that pass the filters."""
        events = self.events[bisect.bisect_left(self.events, min_offset, key=lambda e: e.offset) :]
        if kinds:
            events = [e for e in events if e.kind in kinds]
        if source:
            events = [e for e in events if e.source == source]
        if trace:
            events = [e for e in events if e.trace == trace]
        return events

    def remove(self, events: Iterable[Event], reuse: bool) -> None:
        """Deletes events; with `reuse` the numbering goes on from the new end."""
        for event in events:
            event.deleted = True
            event.touch()
        self.events = [e for e in self.events if not e.deleted]
        if reuse:
            self.next_offset = self.events[-1].offset + 1 if self.events else 0
        self.changed()

    def last_message(self, source: str) -> str | None:
        """The text of the last message from there."""
        for event in reversed(self.events):
            if event.kind == "message" and event.source == source:
                return str(event.data["message"])
        return None

    def last_is_preamble(self) -> bool:
        """Whether the agent's last message was a preamble: then the next turn makes none."""
        for event in reversed(self.events):
            if event.kind == "message" and event.source == "ai_agent":
                return "__preamble__" in event.data.get("tags", ())
        return False

    async def wait(self, ready: Callable[[], bool], seconds: float) -> bool:
        """Waits until `ready` (asked after each change); False: not within so many seconds. Raises NotFound."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            if self.gone:
                raise NotFound(f"Session not found (id='{self.id}')")
            if ready():
                return True
            left = deadline - loop.time()
            if left <= 0:
                return False
            if self._store.look_every:
                await asyncio.sleep(min(left, self._store.look_every))
                continue
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.add(waiter)
            try:
                await asyncio.wait((waiter,), timeout=left)
            finally:
                self._waiters.discard(waiter)

    def changed(self) -> None:
        """Wakes everybody who waits for something in this session."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._store.changed()


class Store:
    """All sessions, agents and customers of one server."""

    def __init__(self, version: Version, look_every: float, changed: Callable[[], None]) -> None:
        self.version = version
        self.look_every = look_every
        self.changed = changed
        self.sessions: dict[str, Session] = {}
        self.agents: dict[str, AgentScript] = {}
        self.customers: dict[str, str] = {"guest": "Guest"}
        self.created = now()
        self._random = random.Random()

    def new_id(self) -> str:
        """Ten characters, as the real server's."""
        return "".join(self._random.choices(_ALPHABET, k=10))

    def new_trace(self) -> str:
        """A trace id as this version makes them."""
        return "R" + self.new_id() if self.version.prefix_traces else f"{self._random.getrandbits(128):032x}"

    def session(self, session_id: str) -> Session:
        """The session of that id; raises NotFound."""
        if session_id not in self.sessions:
            raise NotFound(f"Session not found (id='{session_id}')")
        return self.sessions[session_id]

    def agent(self, agent_id: str) -> AgentScript:
        """The agent of that id; raises NotFound."""
        if agent_id not in self.agents:
            raise NotFound(f"Item '{agent_id}' not found")
        return self.agents[agent_id]

    def create(self, agent_id: str, customer_id: str, title: str | None, metadata: dict[str, Any]) -> Session:
        """A new session."""
        session = Session(self, agent_id, customer_id, title, metadata)
        self.sessions[session.id] = session
        self.changed()
        return session

    def forget_sessions(self) -> None:
        """As a restart of a server that keeps them in memory does."""
        for session in self.sessions.values():
            session.gone = True
        self.sessions.clear()

    def forget_polls(self) -> None:
        """The polls of before a restart are not waiting any more."""
        for session in self.sessions.values():
            session.polls = 0

    def delete(self, session: Session) -> None:
        """Deletes a session; its running polls see that at once."""
        session.gone = True
        self.sessions.pop(session.id, None)
        session.changed()
