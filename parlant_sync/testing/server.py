"""The stand-in: a Parlant server in this process, scripted by the test that uses it."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any

from .controls import Controls
from .faults import Faults
from .gates import Gates
from .httpd import Connection, Request, Response
from .loop import LoopThread
from .policy import Policy
from .routes import Routes
from .scripts import AgentScript
from .store import MAIN, Event, Store
from .turns import Engine
from .versions import version as version_of


class FakeServer(Controls):
    """An HTTP server on 127.0.0.1 that behaves as a Parlant server does, without one.

    ::

        with FakeServer() as server:
            server.agent("support").replies("Hello", then="How can I help?")
            ...  # a client at server.base_url

    Everything it knows lives in one thread of its own; its methods may be called from any other thread.

    Args:
        version: which Parlant it imitates: ``"3.0"``, ``"3.1"``, ``"3.2"`` or ``"3.3"``.
        policy: ``"production"`` allows five operations only, and those so many times a minute; ``"development"`` all.
        token: requests without ``Authorization: Bearer <token>`` get a 401. May be set later: ``server.token = ...``.
        traces: ``"main"``: a request's events have the trace ``<main>``; ``"shared"``: that of the turn they start, as
            on servers with an older FastAPI. 3.0 always has its prefixes.
        pace: seconds between two events of a turn.
        look_every: seconds between two looks of a long poll, 0.25 on real servers; 0: it sees an event at once.
        idle_timeout: seconds after which an unused connection is closed, as uvicorn does; None: never.
        limits: requests per `limit_window` seconds and operation, instead of the production policy's.
        limit_window: how long a request counts, in seconds.
        prefix: a path before all others (``"/parlant"``), as behind a proxy.
        port: 0: any free one; it stays the same over :meth:`restart`.
        ssl_context: serves https with it.
        record: how many requests are kept in :attr:`requests`.
    """

    def __init__(
        self,
        version: str = "3.3",
        *,
        policy: str = "development",
        token: str | None = None,
        traces: str = "main",
        pace: float = 0.001,
        look_every: float = 0.0,
        idle_timeout: float | None = 5.0,
        limits: Mapping[str, int] | None = None,
        limit_window: float = 60.0,
        prefix: str = "",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        record: int = 10_000,
    ) -> None:
        if traces not in ("main", "shared"):
            raise ValueError(f"traces is 'main' or 'shared', not {traces!r}")
        self.version = version_of(version).name
        self._version = version_of(version)
        self._shared_traces = traces == "shared"
        self._pace = pace
        self._look_every = look_every
        self._idle_timeout = idle_timeout
        self._prefix = "/" + prefix.strip("/") if prefix.strip("/") else ""
        self._port = port
        self._ssl_context = ssl_context
        self._policy = Policy(policy, token, self._version, limits, limit_window)
        self._loop = LoopThread("parlant-fake-server")
        self._store = Store(self._version, look_every, self._loop.changed)
        self._faults = Faults()
        self._requests = deque(maxlen=record)
        self._connections: set[Connection] = set()
        self._numbers = itertools.count(1)
        self._listener: asyncio.Server | None = None
        self._fresh_engine()

    def _fresh_engine(self) -> None:
        self._gates = Gates(self._loop.changed)
        self._engine = Engine(self._store, self._gates, self._pace)
        self._routes = Routes(self._store, self._engine, self._policy, self._shared_traces)

    def __repr__(self) -> str:
        state = f"at {self.base_url}" if self.running else "stopped"
        return f"<FakeServer {self.version} {state}>"

    # --- its life

    def __enter__(self) -> FakeServer:
        if not self.running:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it takes requests."""
        return self._loop.running

    @property
    def base_url(self) -> str:
        """``http://127.0.0.1:<port>``, with the prefix if it has one. It is known from the first start on."""
        scheme = "http" if self._ssl_context is None else "https"
        return f"{scheme}://127.0.0.1:{self._port}{self._prefix}"

    @property
    def port(self) -> int:
        """The port it listens at; 0 before the first start."""
        return self._port

    def start(self) -> FakeServer:
        """Starts it; it takes requests when this returns."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            # The port of a server that was just stopped may be taken again.
            if os.name == "posix":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", self._port))
            self._loop.start()
        except BaseException:
            sock.close()
            raise
        self._port = sock.getsockname()[1]
        self._loop.run(self._listen(sock))
        return self

    async def _listen(self, sock: socket.socket) -> None:
        def connection() -> Connection:
            return Connection(next(self._numbers), self._serve, self._idle_timeout, self._connections)

        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(connection, sock=sock, backlog=1024, ssl=self._ssl_context)

    def stop(self, *, answer: int | None = None) -> None:
        """Stops it: connections are cut, running polls get no answer - or this status (500, as on SIGINT).

        Its sessions are remembered until it is started again by :meth:`restart`. Stopping twice does no harm.
        """
        if not self.running:
            return
        self._loop.run(self._shut_down(answer))
        self._loop.stop()

    async def _shut_down(self, answer: int | None) -> None:
        self._engine.stopping = True
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if answer is not None:
            for connection in list(self._connections):
                connection.answer_now(Response(answer, b"Internal Server Error", {"content-type": "text/plain"}, True))
            await asyncio.sleep(0)  # what was written goes out
        for connection in list(self._connections):
            connection.kill()
        while self._connections:  # asyncio closes the sockets in its next round
            await asyncio.sleep(0)

    def restart(self, *, keep: bool = False) -> None:
        """Stops it if it runs, and starts it at the same port; with `keep` it still has its sessions.

        Turns that were running are gone, without a word. Agents, customers and faults stay.
        """
        self.stop()
        if not keep:
            self._store.forget_sessions()
        self._fresh_engine()
        self._store.forget_turns()
        self.start()

    def cut_connections(self, *, reset: bool = False) -> None:
        """Closes all connections now; running polls get no answer. The server goes on."""

        def cut() -> None:
            for connection in list(self._connections):
                connection.kill(reset)

        self._loop.call(cut)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    @property
    def token(self) -> str | None:
        """The token it asks for; None: it asks for none."""
        return self._policy.token

    @token.setter
    def token(self, token: str | None) -> None:
        self._policy.token = token

    # --- who is there

    def agent(self, id: str, name: str | None = None, description: str | None = None) -> AgentScript:
        """The agent of that id, made when first asked for: its script is written on it."""

        def get() -> AgentScript:
            if id not in self._store.agents:
                called = name or id.replace("-", " ").replace("_", " ").title()
                self._store.agents[id] = AgentScript(id, called, description)
            return self._store.agents[id]

        return self._loop.call(get)

    def customer(self, id: str, name: str) -> None:
        """A customer who is known. Sessions of unknown ones are made, but never get an answer."""
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
        return self._loop.call(lambda: [e.dto() for e in self._store.session(session_id).events])

    def say(self, session_id: str, text: str, *, metadata: Mapping[str, Any] | None = None) -> None:
        """A customer's message from somewhere else: as if another process had posted it. Does not wait for the turn."""

        def post() -> None:
            session = self._store.session(session_id)
            message = self._routes.events.customer_message(session, text, dict(metadata or {}))
            self._engine.spawn(_nothing(message))

        self._loop.call(post)

    def human(self, session_id: str, text: str, name: str = "Dana", *, on_behalf: bool = False) -> None:
        """A human agent's message; `on_behalf`: in the name of the AI agent."""

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
            return session.add(kind, source, value, trace, dict(metadata or {}), offset)

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

    # --- serving

    async def _serve(self, request: Request) -> Response:
        self._requests.append(request)
        self._loop.changed()
        fault = self._faults.take(request)
        response = await (fault.apply(request, self._answer) if fault else self._answer(request))
        request.status = None if response.cut_after is not None else response.status
        self._loop.changed()
        return response

    async def _answer(self, request: Request) -> Response:
        if self._prefix:
            if not request.path.startswith(self._prefix + "/"):
                return Response.of(404, {"detail": "Not Found"})
            request.path = request.path[len(self._prefix) :]
        return await self._routes.answer(request)


async def _nothing(something: Any) -> None:
    await something
