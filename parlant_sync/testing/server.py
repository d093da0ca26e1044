"""The stand-in: a Parlant server in this process, scripted by the test that uses it."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .api import Api
from .controls import SessionControls
from .engine import Engine
from .faults import Fault, RequestControls
from .gates import Gates
from .httpd import Connection, Request, Response
from .loop import LoopThread
from .policy import Policy
from .store import Store
from .versions import version as version_of

if TYPE_CHECKING:
    from parlant_sync import Client


class FakeServer(SessionControls, RequestControls):
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
        self._faults: list[Fault] = []
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
            fault = self._take_fault(request)
            answer = self._api.answer
            response = await (fault.apply(request, answer) if fault else answer(request))
        except Exception as error:  # of a function that a test gave: reported at once, and at the end
            self._mistake = self._mistake or error
            detail = f"in what a test gave this FakeServer: {type(error).__name__}: {error}"
            response = Response.of(500, {"detail": detail.encode(errors="backslashreplace").decode()})
        request.status = None if response.cut_after is not None else response.status
        self._loop.changed()
        return response
