"""The thread of the fault proxy: sockets, and where requests and answers begin and end in their bytes."""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.fault_orders import Exchange, Order, content_length, split_answer

_LINGER_NONE = struct.pack("ii", 1, 0)


class _Pair:
    """A client's connection and the one to the server that carries it on."""

    def __init__(self, number: int, client: socket.socket) -> None:
        self.number = number
        self.client = client
        self.server: socket.socket | None = None
        self.up = bytearray()  # from the client, not yet forwarded
        self.down = bytearray()  # from the server, not yet a whole answer
        self.out: dict[socket.socket, bytearray] = {client: bytearray()}
        self.exchange: Exchange | None = None
        self.order: Order | None = None  # a cut of the running request
        self.chosen: Order | None = None  # by choose(), for the running exchange
        self.left = 0  # bytes of the request's body still to come
        self.forwarded = 0
        self.count = 0
        self.then: str | None = None  # what becomes of the client when all is written
        self.drip: tuple[float, float] | None = None  # (every, next at)
        self.closed = False


class ProxyLoop:
    """One thread, one selector. What it knows is written by that thread alone."""

    def __init__(self, upstream: str, *, record: int = 1_000_000) -> None:
        parts = urlsplit(upstream)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_out.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        self._port = 0
        self._orders: list[Order] = []
        self.choose: Callable[[Exchange], Order | None] | None = (
            None  # a fault for this exchange; the loop's thread asks
        )
        self.faults: Counter[str] = Counter()  # what struck, by the names of the orders
        self._pairs: set[_Pair] = set()
        self._log: deque[Exchange] = deque(maxlen=record)
        self._changed = threading.Condition()  # guards nothing: the loop's thread alone writes; for waiting only
        self._numbers = 0
        self._stopping = False
        self.accepted = 0
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)  # ends with its test

    def _do(self, act: Callable[[], Any]) -> None:
        done = threading.Event()

        def run() -> None:
            act()
            done.set()

        self._commands.put(run)
        self._wake()
        if not done.wait(10):
            raise TimeoutError("the fault proxy's thread has died")

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake_in.send(b".")

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._port))
        listener.listen(1024)
        listener.setblocking(False)
        self._port = listener.getsockname()[1]
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)

    def _stop(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._once()
        finally:
            for pair in list(self._pairs):
                self._close(pair, reset=True)
            if self._listener is not None:
                self._listener.close()
            self._selector.close()
            self._wake_in.close()
            self._wake_out.close()

    def _once(self) -> None:
        for key, mask in self._selector.select(self._next_drip()):
            sock: Any = key.fileobj
            if sock is self._wake_out:
                with contextlib.suppress(BlockingIOError):
                    self._wake_out.recv(4096)
            elif sock is self._listener:
                self._accept()
            elif not key.data.closed:
                self._serve(key.data, sock, mask)
        while True:
            try:
                command = self._commands.get_nowait()
            except queue.Empty:
                break
            command()
        for pair in [p for p in self._pairs if p.drip is not None]:
            self._flush(pair, pair.client)
        with self._changed:
            self._changed.notify_all()

    def _next_drip(self) -> float | None:
        at = min((p.drip[1] for p in self._pairs if p.drip is not None), default=None)
        return None if at is None else max(0.0, at - time.monotonic())

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            return
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted += 1
        pair = _Pair(self.accepted, client)
        self._pairs.add(pair)
        self._selector.register(client, selectors.EVENT_READ, pair)

    def _serve(self, pair: _Pair, sock: socket.socket, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._flush(pair, sock)
        if pair.closed or not mask & selectors.EVENT_READ:
            return
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._ended(pair, sock)
        elif sock is pair.client:
            pair.up += data
            self._forward(pair)
        else:
            pair.down += data
            self._backward(pair, ended=False)

    def _ended(self, pair: _Pair, sock: socket.socket) -> None:
        if sock is pair.client:
            self._close(pair, reset=False)
        elif pair.exchange is not None and pair.down:
            self._backward(pair, ended=True)
        elif pair.out[pair.client]:
            self._selector.unregister(sock)  # still on its way to the client
            pair.then = pair.then or "close"
        elif pair.then is None:
            self._close(pair, reset=False)

    # -- requests

    def _forward(self, pair: _Pair) -> None:
        if pair.exchange is None:
            end = pair.up.find(b"\r\n\r\n")
            if end < 0:
                return
            if not self._begin(pair, bytes(pair.up[: end + 4])):
                return
        assert pair.exchange is not None
        data = bytes(pair.up)
        pair.up.clear()
        pair.left -= len(data)
        pair.exchange.request += data
        order = pair.order
        if order is None:
            self._to_server(pair, data)
        elif order.instead is not None:
            if pair.left <= 0:
                self._reply(pair, order, b"")
        elif order.cut_at is not None:
            rest = order.cut_at - pair.forwarded
            self._to_server(pair, data[: max(0, rest)])
            pair.forwarded += len(data)
            if pair.forwarded >= order.cut_at and not pair.closed:
                self._close(pair, reset=order.reset)

    def _begin(self, pair: _Pair, head: bytes) -> bool:
        method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
        parts = urlsplit(target)
        self._numbers += 1
        exchange = Exchange(
            self._numbers, pair.number, pair.count > 0, method, parts.path, parse_qs(parts.query), head=head
        )
        self._log.append(exchange)
        pair.exchange, pair.forwarded = exchange, 0
        pair.count += 1
        pair.left = len(head) + (content_length(head) or 0)
        pair.chosen = self.choose(exchange) if self.choose is not None else None
        pair.order = self._order_for(pair, lambda o: o.cut_at is not None or o.instead is not None)
        if pair.order is not None:
            self._note(pair.order, exchange)
            if pair.order.instead is not None:
                return True
        if pair.server is None:
            try:
                pair.server = socket.create_connection(self._address, timeout=5)
            except OSError:
                self._close(pair, reset=True)
                return False
            pair.server.setblocking(False)
            pair.server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair.out[pair.server] = bytearray()
            self._selector.register(pair.server, selectors.EVENT_READ, pair)
        return True

    def _order_for(self, pair: _Pair, fits: Callable[[Order], bool]) -> Order | None:
        exchange = pair.exchange
        assert exchange is not None
        orders = self._orders if pair.chosen is None else [pair.chosen, *self._orders]
        return next((order for order in orders if fits(order) and order.wants(exchange)), None)

    def _note(self, order: Order, exchange: Exchange) -> None:
        order.note(exchange)
        self.faults[order.name] += 1

    def _to_server(self, pair: _Pair, data: bytes) -> None:
        assert pair.server is not None
        pair.out[pair.server] += data
        self._flush(pair, pair.server)

    # -- answers

    def _backward(self, pair: _Pair, *, ended: bool) -> None:
        exchange = pair.exchange
        head, body = split_answer(bytes(pair.down))
        if exchange is None or (not head.endswith(b"\r\n\r\n") and not ended):
            return
        length = content_length(head)
        status = int(head[9:12]) if len(head) > 12 else None
        if length is None and b"chunked" in head.lower() and not ended and not body.endswith(b"0\r\n\r\n"):
            return
        if length is not None and len(body) < length and not ended:
            return
        exchange.status, exchange.answer = status, head + body
        pair.down.clear()
        order = self._order_for(
            pair,
            lambda o: (o.change is not None or o.drip is not None) and (o.statuses is None or status in o.statuses),
        )
        if order is not None:
            self._note(order, exchange)
        self._reply(pair, order, exchange.answer)
        if ended and not pair.closed and pair.then is None:
            pair.then = "close"
            self._flush(pair, pair.client)

    def _reply(self, pair: _Pair, order: Order | None, answer: bytes) -> None:
        exchange, pair.exchange, pair.order = pair.exchange, None, None
        then = "keep"
        if order is not None:
            if order.instead is not None:
                answer, then = order.instead
                if exchange is not None and len(answer) > 12:
                    exchange.status = int(answer[9:12])
            elif order.change is not None:
                answer, then = order.change(answer)
            if order.drip is not None:
                if not order.drip_head:
                    head, answer = split_answer(answer)
                    pair.out[pair.client] += head
                    self._flush(pair, pair.client)
                pair.drip = (order.drip, time.monotonic())
        pair.out[pair.client] += answer
        pair.then = None if then == "keep" else then
        self._flush(pair, pair.client)

    # -- sockets

    def _flush(self, pair: _Pair, sock: socket.socket) -> None:
        out = pair.out.get(sock)
        if out is None or pair.closed:
            return
        dripping = pair.drip if sock is pair.client else None
        try:
            if dripping is not None:
                every, at = dripping
                if out and time.monotonic() >= at:
                    del out[: sock.send(out[:1])]
                    pair.drip = (every, time.monotonic() + every)
                if not out:
                    pair.drip = None
            else:
                while out:
                    del out[: sock.send(out[: 1 << 20])]
        except BlockingIOError:
            pass
        except OSError:
            self._close(pair, reset=False)
            return
        wants_write = bool(out) and pair.drip is None
        self._selector.modify(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if wants_write else 0), pair)
        if sock is pair.client and not out and pair.then in ("close", "reset"):
            self._close(pair, reset=pair.then == "reset")

    def _close(self, pair: _Pair, *, reset: bool) -> None:
        if pair.closed:
            return
        pair.closed = True
        self._pairs.discard(pair)
        for sock in (pair.client, pair.server):
            if sock is None:
                continue
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(sock)
            if reset and sock is pair.client:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
            sock.close()
