"""Sessions, their events, agents and customers: what the server remembers. Touched in the loop's thread only."""

from __future__ import annotations

import asyncio
import bisect
import json
import random
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from .agents import AgentScript, HumanScript
from .httpd import encode
from .versions import Version

MAIN = "<main>"
"""The trace of whatever a request stores, on a server that runs on FastAPI 0.137 or newer."""

PREAMBLE = "__preamble__"
"""The tag of a preamble."""

_ALPHABET = string.digits + string.ascii_letters


def now() -> str:
    """The time as the API writes it."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(slots=True, eq=False)
class Event:
    """One event. `touch()` after a change, so that it is serialized again."""

    version: Version
    id: str
    offset: int
    kind: str
    source: str
    trace: str
    data: Any
    metadata: dict[str, Any]
    created: str = field(default_factory=lambda: now())  # by its name: a test may set the time
    modified: str = ""
    deleted: bool = False
    lenient: bool = False
    """Shown though it holds a lone surrogate: a test has put it there."""
    _body: bytes | None = None

    def dto(self) -> dict[str, Any]:
        """As the API shows it."""
        version = self.version
        return {
            "id": self.id,
            "source": self.source,
            "kind": self.kind,
            "offset": self.offset,
            "creation_utc": self.created,
            **({"modified_utc": self.modified or self.created} if version.compass else {}),
            **({} if version.prefix_traces else {"trace_id": self.trace}),
            **({} if version.compass else {"correlation_id": self.trace}),
            "data": self.data,
            **({"metadata": self.metadata} if version.metadata else {}),
            "deleted": self.deleted,
        }

    def body(self) -> bytes:
        """The same as bytes, made once: lists of 50,000 events must be quick."""
        if self._body is None:
            try:
                self._body = encode(self.dto())
            except UnicodeEncodeError:
                # If a client posted it, every list that has it is a 500, for ever.
                if not self.lenient:
                    raise
                self._body = json.dumps(self.dto(), separators=(",", ":")).encode()
        return self._body

    def touch(self) -> None:
        """It was changed."""
        self._body = None
        self.modified = now()

    @property
    def complete(self) -> bool:
        """Not a streamed message that still grows."""
        chunks = self.data.get("chunks") if isinstance(self.data, dict) else None
        return chunks is None or bool(chunks and chunks[-1] is None)


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
        self.modified = self.created
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
            **({"modified_utc": self.modified} if self._store.version.compass else {}),
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
        """Stores an event under the next offset (or an `offset` of the caller's) and wakes those who wait for it."""
        if self.gone:
            raise NotFound(f"Session not found (id='{self.id}')")
        at = self.next_offset if offset is None else offset
        event = Event(self._store.version, self._store.new_id(), at, kind, source, trace, data, metadata or {})
        if offset is None:
            self.events.append(event)
        else:
            bisect.insort(self.events, event, key=lambda e: e.offset)
        self.all_events[event.id] = event
        self.next_offset = max(self.next_offset, at + 1)
        self.changed()
        return event

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
                return PREAMBLE in event.data.get("tags", ())
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
        self.modified = now()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._store.changed()


class Store:
    """All sessions, agents and customers of one server."""

    def __init__(self, version: Version, shared_traces: bool, look_every: float, changed: Callable[[], None]) -> None:
        self.version = version
        # On 3.0, 4.0, and servers with an older FastAPI, a request and the turn it starts share their trace.
        self.shared_traces = shared_traces or version.prefix_traces or version.compass
        self.look_every = look_every
        self.changed = changed
        self.sessions: dict[str, Session] = {}
        self.agents: dict[str, AgentScript] = {}
        self.customers: dict[str, str] = {"guest": "Guest"}
        self.human: HumanScript | None = None
        self.created = now()
        self._random = random.Random()
        self.instance_id = self.new_id()

    def new_id(self) -> str:
        """Ten characters, as the real server's."""
        return "".join(self._random.choices(_ALPHABET, k=10))

    def new_trace(self) -> str:
        """A trace id as this version makes them."""
        return "R" + self.new_id() if self.version.prefix_traces else f"{self._random.getrandbits(128):032x}"

    def trace_of_request(self) -> str:
        """The trace of what a request stores."""
        return self.new_trace() if self.shared_traces else MAIN

    def trace_of_turn(self, trace: str, what: str = "process") -> str:
        """The trace of the turn that a request of that trace starts."""
        if self.version.prefix_traces:
            return f"{trace}::{what}"
        return self.new_trace() if trace == MAIN else trace

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
