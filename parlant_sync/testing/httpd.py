"""HTTP/1.1 over asyncio: requests in, responses out - and responses that are cut, dripped or held."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(eq=False)
class Request:
    """One request that the server got; ``server.requests`` is a list of them."""

    method: str
    path: str
    """Decoded, without the query."""
    target: str
    """As it was sent: the path with its query, not decoded."""
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes
    time: float
    """``time.monotonic()`` when it was complete."""
    connection: int
    """Which connection it came on: 1, 2, ..."""
    peer: str = "127.0.0.1"
    pairs: list[tuple[str, str]] = field(default_factory=list, repr=False)
    """The query with its repetitions."""
    status: int | None = None
    """The status of the answer; None: none was given yet, or the connection was cut first."""

    @property
    def json(self) -> Any:
        """The body as JSON; None if it is empty or no JSON."""
        try:
            return json.loads(self.body) if self.body else None
        except ValueError:
            return None

    @property
    def waits(self) -> bool:
        """Whether it is a long poll: a list of events that waits for data."""
        if self.method != "GET" or not self.path.endswith("/events"):
            return False
        try:
            return float(self.query.get("wait_for_data", "60")) > 0
        except ValueError:
            return False


@dataclass
class Response:
    """An answer; the odd fields are there for faults."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    close: bool = False
    cut_after: int | None = None
    """Close the connection after so many bytes of the answer (0: none at all)."""
    cut_body: bool = False
    """Count these bytes from the beginning of the body."""
    reset: bool = False
    """Cut with a reset instead of an orderly end."""
    drip: tuple[int, float] | None = None
    """So many bytes at a time, with a pause of so many seconds."""

    @classmethod
    def of(cls, status: int, value: Any) -> Response:
        """A JSON answer."""
        return cls(status, encode(value), {"content-type": "application/json"})


def encode(value: Any) -> bytes:
    """JSON as the real server writes it: compact, not escaped. A lone surrogate is a UnicodeEncodeError, as there."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def phrase(status: int) -> str:
    """What HTTP calls a status."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


_INVALID = b"Invalid HTTP request received."

Serve = Callable[[Request], Awaitable[Response]]


class Connection(asyncio.Protocol):
    """One connection: reads requests one after another, answers each before the next is looked at."""

    def __init__(self, number: int, serve: Serve, idle_timeout: float | None, all_of_them: set[Connection]) -> None:
        self._number = number
        self._serve = serve
        self._idle_timeout = idle_timeout
        self._all = all_of_them
        self._buffer = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._safe = False  # the request being served may be dropped when its client goes away
        self._idle: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self._transport: asyncio.Transport | None = None
        self._lost = False
        self._killed = False

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        self._lost = True
        self._drained.set()
        self._not_idle()
        # As with the real server, a POST is carried out though its sender has left; a poll just ends.
        if self._task is not None and self._safe:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._not_idle()
        self._next()

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def kill(self, reset: bool = False) -> None:
        """Cuts the connection now, whatever it is doing. Idempotent."""
        if self._killed:  # the TLS transport of Python 3.11.0 to 3.11.2 fails at the second time
            return
        self._killed = True
        if reset:
            self._linger()
        self._out.abort()
        self._out.close()  # Python 3.10's TLS transport does not count an aborted one as closed

    def _gone(self) -> bool:
        return self._lost

    @property
    def _out(self) -> asyncio.Transport:
        assert self._transport is not None  # there from the first call of asyncio's on
        return self._transport

    def answer_now(self, response: Response) -> None:
        """Answers the request being served with this, if there is one: the server is being stopped."""
        if self._task is not None and not self._gone():
            self._out.write(self._head(response, len(response.body)) + response.body)
            self._out.close()
            self._lost = True  # the answer that the request's task may still make is not sent

    # --- requests

    def _next(self) -> None:
        if self._task is not None or self._gone():
            return
        try:
            request = self._parse()
        except ValueError:
            self._out.write(self._head(Response(400, close=True), len(_INVALID)) + _INVALID)
            self._out.close()
            return
        if request is None:
            return
        self._safe = request.method in ("GET", "HEAD")
        self._task = asyncio.get_running_loop().create_task(self._answer(request))

    def _parse(self) -> Request | None:
        if b"\r\n\r\n" not in self._buffer:
            return None
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, protocol = first.split(" ")
        if not protocol.startswith("HTTP/1."):
            raise ValueError(protocol)
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError(line)
            headers[name.strip().lower()] = value.strip()
        size = int(headers.get("content-length", "0"))
        if len(rest) < size:
            return None
        del self._buffer[: len(head) + 4 + size]
        if protocol == "HTTP/1.0":
            headers.setdefault("connection", "close")
        parts = urlsplit("//host" + target if target.startswith("/") else target)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
        peer = self._out.get_extra_info("peername")
        return Request(
            method=method,
            path=unquote(parts.path),
            target=target,
            query=dict(pairs),
            headers=headers,
            body=rest[:size],
            time=time.monotonic(),
            connection=self._number,
            peer=str(peer[0]) if peer else "",
            pairs=pairs,
        )

    async def _answer(self, request: Request) -> None:
        try:
            response = await self._serve(request)
            if self._gone():
                return
            await self._write(request, response)
        except asyncio.CancelledError:
            self.kill()  # the server stops: cut, no answer
            raise
        except Exception:
            self.kill()  # a fault's answer that cannot be sent (its headers, say): the client must not wait for it
            raise
        finally:
            self._task = None
        if self._gone():
            return
        if response.close or request.headers.get("connection", "").lower() == "close":
            self._out.close()
            return
        if self._idle_timeout is not None:
            self._idle = asyncio.get_running_loop().call_later(self._idle_timeout, self._out.close)
        self._next()

    def _not_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    # --- responses

    def _head(self, response: Response, length: int) -> bytes:
        lines = [f"HTTP/1.1 {response.status} {phrase(response.status)}"]
        headers = {"date": formatdate(usegmt=True), "server": "uvicorn", **response.headers}
        if response.status != 204:
            headers.setdefault("content-length", str(length))
        if response.close:
            headers["connection"] = "close"
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def _write(self, request: Request, response: Response) -> None:
        body = b"" if request.method == "HEAD" else response.body
        head = self._head(response, len(response.body))
        data = head + body
        if response.cut_after is not None:
            data = data[: response.cut_after + (len(head) if response.cut_body else 0)]
        if response.drip is not None:
            size, pause = response.drip
            for start in range(0, len(data), size):
                if self._gone():
                    return
                self._out.write(data[start : start + size])
                await asyncio.sleep(pause)
        elif data:
            self._out.write(data)
            await self._drained.wait()
        if response.cut_after is not None and not self._gone():
            if response.reset:
                self.kill(reset=True)
            else:
                self._out.close()

    def _linger(self) -> None:
        sock = self._out.get_extra_info("socket")
        if sock is not None:
            # An immediate close with something unsent is a reset.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
