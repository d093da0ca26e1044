"""The stand-in: a Parlant server in this process, scripted by the test that uses it."""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from .agents import AgentScript, CompositionMode, HumanScript, check_json
from .api import Api
from .engine import Engine
from .faults import Faults, RequestControls
from .gates import Gates
from .httpd import Connection, Request, Response
from .loop import LoopThread
from .store import MAIN, Event, Store
from .validation import Policy
from .versions import version as version_of

if TYPE_CHECKING:
    from parlant_sync import Client


class FakeServer(RequestControls):
    """An HTTP server on 127.0.0.1 that behaves as a Parlant server does, without one.

    ::

        with FakeServer() as server:
            server.agent("support").replies("Hello", then="How can I help?")
            ...  # a client at server.base_url

    Everything it knows lives in one thread of its own; its methods may be called from any other thread.

    Args:
        version: which Parlant it imitates: ``"3.0"``, ``"3.1"``, ``"3.2"``, ``"3.3"`` or ``"4.0"``.
        policy: ``"development"`` allows everything. ``"production"`` allows five operations, each so many times a
            minute; on 4.0, it gives anonymous clients a guest token.
        token: requests without ``Authorization: Bearer <token>`` get a 401. May be set later: ``server.token = ...``.
            On 4.0 in production, it is an admin's: guests need none for their first request.
        traces: ``"main"``: a request's events have the trace ``<main>``; ``"shared"``: that of the turn they start, as
            on servers with an older FastAPI. 3.0 always has its prefixes, and 4.0 always shares.
        pace: seconds between two events of a turn.
        look_every: seconds between two looks of a long poll, 0.25 on real servers; 0: it sees an event at once.
        cancel_timeout: seconds that a cancelling POST (4.0) waits for the running step of a turn before its 504.
        idle_timeout: seconds after which an unused connection is closed, as uvicorn does; None: never.
        limits: requests per `limit_window` seconds and operation, instead of the production policy's.
        limit_window: how long a request counts, in seconds.
        prefix: a path before all others (``"/parlant"``), as behind a proxy.
        port: 0: any free one; it stays the same over ``restart``.
        ssl_context: serves https with it.
        record: how many requests are kept in ``requests``.
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
        cancel_timeout: float = 10.0,
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
        self._pace = pace
        self._cancel_timeout = cancel_timeout
        self._idle_timeout = idle_timeout
        self._prefix = "/" + prefix.strip("/") if prefix.strip("/") else ""
        self._port = port
        self._ssl_context = ssl_context
        self._policy = Policy(policy, token, self._version, limits, limit_window)
        self._loop = LoopThread("parlant-fake-server")
        self._store = Store(self._version, traces == "shared", look_every, self._loop.changed)
        self._faults = Faults()
        self._requests: deque[Request] = deque(maxlen=record)
        self._connections: set[Connection] = set()
        self._numbers = itertools.count(1)
        self._listener: asyncio.Server | None = None
        self._mistake: Exception | None = None
        self._fresh_engine()

    def _fresh_engine(self) -> None:
        self._gates = Gates(self._loop.changed)
        self._engine = Engine(self._store, self._gates, self._pace, self._cancel_timeout)
        self._api = Api(self._store, self._engine, self._policy)

    def __repr__(self) -> str:
        state = f"at {self.base_url}" if self.running else "stopped"
        return f"<FakeServer {self.version} {state}>"

    # --- starting and stopping

    def __enter__(self) -> FakeServer:
        if not self.running:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if kind is None and self._mistake is not None:
            raise RuntimeError(f"what a test gave this server failed there: {self._mistake}") from self._mistake

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
        if self.running:
            raise RuntimeError(f"already running at {self.base_url}")
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
        """Stops it and cuts all connections. Running polls get no answer, or this status (500, as on SIGINT).

        Its sessions are remembered until ``restart``. Stopping twice does no harm.
        """
        if not self.running:
            return
        self._loop.run(self._shut_down(answer))
        self._loop.stop()

    async def _shut_down(self, answer: int | None) -> None:
        self._engine.stopping = True
        if self._listener is not None:
            # A connection that was just accepted registers itself some rounds later, and not with a closed listener:
            # asyncio would drop it open.
            while accepting := [t for t in asyncio.all_tasks() if "_accept_connection" in repr(t.get_coro())]:
                await asyncio.wait(accepting)
            self._listener.close()
            self._listener = None
        if answer is not None:
            for connection in list(self._connections):
                connection.answer_now(Response(answer, b"Internal Server Error", {"content-type": "text/plain"}, True))
            await asyncio.sleep(0)  # what was written goes out
        while self._connections:  # asyncio closes the sockets in its next round
            for connection in list(self._connections):
                connection.kill()
            await asyncio.sleep(0)

    def restart(self, *, keep: bool = False) -> None:
        """Stops it if it runs, and starts it at the same port; with `keep` it still has its sessions.

        Turns that were running end without a further event. Agents, customers and faults stay.
        """
        self.stop()
        if not keep:
            self._store.forget_sessions()
        self._fresh_engine()
        self._store.forget_polls()
        self._policy.forget_guests()
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

    def set_clock(self, clock: Callable[[], float]) -> None:
        """The clock by which requests are counted against the limits, in seconds; monotonic time otherwise."""
        self._policy.clock = clock

    @property
    def token(self) -> str | None:
        """The token that requests need; None if they need none."""
        return self._policy.token

    @token.setter
    def token(self, token: str | None) -> None:
        self._policy.token = token

    def client(self, **options: Any) -> Client:
        """Returns a ``parlant_sync.Client`` for this server, with times for tests. Close it, or use it in a ``with``.

        Nothing takes long here, so it does not wait long: a request that gets no answer is given up after 1 s
        (``request_timeout``), and a turn after 30 s (``turn_timeout``). So a test of a server that is down, or of a
        message whose fate is unknown, takes about a second. `options` are those of ``Client``, and come first.
        """
        from parlant_sync import Client

        times = {"connect_timeout": 1, "request_timeout": 1, "turn_timeout": 30}
        return Client(self.base_url, **{"token": self.token, **times, **options})

    # --- serving

    async def _serve(self, request: Request) -> Response:
        within = request.path.startswith(self._prefix + "/")
        if within:
            request.path = request.path[len(self._prefix) :]
        self._requests.append(request)
        self._loop.changed()
        if not within:
            return Response.of(404, {"detail": "Not Found"})
        try:
            fault = self._faults.take(request)
            answer = self._api.answer
            response = await (fault.apply(request, answer) if fault else answer(request))
        except Exception as error:  # of a function that a test gave: reported at once, and at the end
            self._mistake = self._mistake or error
            detail = f"in what a test gave this FakeServer: {type(error).__name__}: {error}"
            response = Response.of(500, {"detail": detail.encode(errors="backslashreplace").decode()})
        request.status = None if response.cut_after is not None else response.status
        self._loop.changed()
        return response

    # --- who is there

    def agent(
        self,
        id: str,
        name: str | None = None,
        description: str | None = None,
        *,
        composition_mode: CompositionMode | None = None,
        preamble: bool | None = None,
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
                )
            elif composition_mode not in (None, found.composition_mode) or preamble not in (None, found.wants_preamble):
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
        """Makes a session (and its agent, if there is none of that id) and returns its id."""
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
