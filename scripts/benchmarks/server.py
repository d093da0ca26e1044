"""The answering server: a small process that answers at once, so that the client is what is measured.

``python -m benchmarks.server`` prints its port and serves until stdin ends. A session's id says how it
behaves: ``backlog.50000.x`` has so many events, ``tick.20.x`` sends one event 20 ms after each poll, ``turn.200.x``
answers each message by a turn of 200 ms, ``long.50000.x`` has so many events and then answers each message at once,
``flood.TOTAL.BATCH.WINDOW.x`` sends for ever, and ``idle.x`` never has anything. ``GET /bench`` reports what was asked
so far, ``DELETE /bench`` forgets that.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections import Counter
from typing import Any
from urllib.parse import parse_qsl, unquote

from benchmarks.wire import Flood, Turns, encode, event, history, message, stamped, unstamped

_CREATED = "2026-01-01T00:00:00.000000Z"
_REASONS = {200: "OK", 201: "Created", 204: "No Content", 404: "Not Found", 504: "Gateway Timeout"}


def packed(status: int, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


_EMPTY = packed(200, b"[]")
_TIMED_OUT = packed(504, b'{"detail":"Request timed out"}')


class State:
    """All that the server knows. Used by the event loop's thread alone."""

    def __init__(self) -> None:
        self.backlogs: dict[int, bytes] = {}
        self.turns: dict[str, Turns] = {}
        self.floods: dict[str, Flood] = {}
        self.held: dict[str, set[Connection]] = {}
        self.requests: Counter[str] = Counter()
        self.order: list[str] = []  # the first requests, in their order
        self.sent = 0  # bytes of lists
        self.created = 0
        self.open = 0

    def backlog(self, count: int) -> bytes:
        if count not in self.backlogs:
            self.backlogs[count] = packed(200, history(count))
        return self.backlogs[count]

    def turn(self, session: str, length: str) -> Turns:
        if session not in self.turns:
            if session.startswith("long."):
                self.turns[session] = Turns(0)
                self.turns[session].log = json.loads(history(int(length)))
            else:
                self.turns[session] = Turns(int(length) / 1000)
        return self.turns[session]

    def flood(self, session: str, *numbers: str) -> Flood:
        if session not in self.floods:
            self.floods[session] = Flood(*map(int, numbers[:3]))
        return self.floods[session]

    def report(self) -> bytes:
        held = sum(len(connections) for connections in self.held.values())
        seen = {"requests": self.requests, "order": self.order, "sent": self.sent}
        return json.dumps({**seen, "held": held, "connections": self.open}).encode()

    def note(self, what: str) -> None:
        self.requests[what] += 1
        if len(self.order) < 100:
            self.order.append(what)


class Connection(asyncio.Protocol):
    """One keep-alive connection: one request at a time, answered or held."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._buffer = b""
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._session = ""
        self.min_offset = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._state.open += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._state.open -= 1
        self._let_go()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        line, *headers = head.decode("latin-1").split("\r\n")
        length = next((int(h[15:]) for h in headers if h[:15].lower() == "content-length:"), 0)
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        method, target, _ = line.split(" ", 2)
        path, _, query = target.partition("?")
        self._answer(method, unquote(path), dict(parse_qsl(query)), rest[:length])

    def send(self, data: bytes) -> None:
        self._transport.write(data)

    def json(self, status: int, value: Any) -> None:
        self.send(packed(status, json.dumps(value).encode()))

    # -- routes

    def _answer(self, method: str, path: str, query: dict[str, str], body: bytes) -> None:
        state = self._state
        if path == "/bench":
            self.send(packed(200, state.report()))
            if method == "DELETE":
                state.requests.clear()
                state.order.clear()
                state.sent = 0
            return
        parts = path.strip("/").split("/")
        value = json.loads(body or b"{}")
        if parts == ["sessions"]:
            # The agent's id says what kind of session is wanted.
            state.created += 1
            state.note("create")
            kept = {name: value[name] for name in ("title", "metadata", "labels") if value.get(name) is not None}
            self.json(201, {**self._info(f"{value['agent_id']}.{state.created}"), **kept})
        elif len(parts) == 2 and method == "GET":
            state.note("read")
            self.json(200, self._info(parts[1]))
        elif len(parts) == 3 and method == "GET":
            waits = query.get("wait_for_data", "60") != "0"
            state.note("poll" if waits else "list")
            self._list(parts[1], int(query.get("min_offset", 0)), int(query.get("wait_for_data", 60)))
        elif len(parts) == 3:
            state.note("post")
            self._post(parts[1], value)
        else:
            self.json(404, {"detail": "no such page"})

    def _info(self, session: str) -> dict[str, Any]:
        more: dict[str, Any] = {
            "mode": "auto",
            "title": None,
            "metadata": {},
            "labels": [],
            "consumption_offsets": {"client": 0},
        }
        who = {"agent_id": session.split(".")[0], "customer_id": "guest"}
        return {"id": session, "creation_utc": _CREATED, **who, **more}

    def _list(self, session: str, start: int, wait: int) -> None:
        kind, *numbers = session.split(".")
        state = self._state
        if kind == "backlog" and start == 0:
            self.send(state.backlog(int(numbers[0])))
        elif kind == "flood":
            flood = state.flood(session, *numbers)
            body = flood.poll(start) if wait else flood.list(start)
            if body is None:
                self._hold(session, start, wait)
            else:
                self.send(packed(200, body))
        elif kind in ("turn", "long") and len(state.turn(session, numbers[0]).log) > start:
            body = encode(state.turn(session, numbers[0]).log[start:])
            state.sent += len(body)
            self.send(stamped(packed(200, body)))
        elif not wait:
            self.send(_EMPTY)
        else:
            self._hold(session, start, wait)
            if kind == "tick":
                asyncio.get_running_loop().call_later(int(numbers[0]) / 1000, self._tick, session, start)

    def _post(self, session: str, value: dict[str, Any]) -> None:
        kind, *numbers = session.split(".")
        if kind not in ("turn", "long"):
            self.json(201, message(0, value.get("message", ""), "<main>", source="customer"))
            return
        turn = self._state.turn(session, numbers[0])
        asked, batches = turn.post(value.get("message", ""), value.get("metadata"))
        self.json(201, asked)
        batches[0].insert(0, asked)
        for number, batch in enumerate(batches):
            self._later(turn.gap * number, session, turn, batch)

    def _later(self, delay: float, session: str, turn: Turns, batch: list[dict[str, Any]]) -> None:
        if delay:
            asyncio.get_running_loop().call_later(delay, self._tell, session, turn, batch)
        else:
            self._tell(session, turn, batch)

    # -- held polls

    def _hold(self, session: str, start: int, wait: int) -> None:
        self._session, self.min_offset = session, start
        self._state.held.setdefault(session, set()).add(self)
        self._timer = asyncio.get_running_loop().call_later(wait, self._time_out)

    def _let_go(self) -> bool:
        if self._timer is None:
            return False
        self._timer.cancel()
        self._timer = None
        self._state.held[self._session].discard(self)
        return True

    def _time_out(self) -> None:
        if self._let_go():
            self.send(_TIMED_OUT)

    def _tick(self, session: str, start: int) -> None:
        body = packed(
            200, encode([event(start, "custom", "customer_ui", {"n": start}, "trace-1", metadata=unstamped())])
        )
        if self._let_go():
            self.send(stamped(body))

    def _tell(self, session: str, turn: Turns, batch: list[dict[str, Any]]) -> None:
        turn.log.extend(batch)
        for poll in list(self._state.held.get(session, ())):
            body = packed(200, encode(turn.log[poll.min_offset :]))
            if poll._let_go():
                poll.send(stamped(body))


async def serve() -> None:
    loop = asyncio.get_running_loop()
    state = State()
    server = await loop.create_server(lambda: Connection(state), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    # Daemon: it only waits for the end of whoever started this process.
    threading.Thread(
        target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(ended.set)), daemon=True, name="end-of-stdin"
    ).start()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve())
