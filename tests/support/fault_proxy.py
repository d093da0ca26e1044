"""A TCP proxy that knows where requests and answers begin and end, and does to them what a test orders.

One thread, one selector, no sleeps: every fault happens at an event (so many bytes came, an answer is complete), and a
test waits for what has happened. Standard library only, so that ``scripts/soak.py`` can use it, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from support.fault_loop import ProxyLoop
from support.fault_orders import Change, Exchange, Match, Order


class FaultProxy(ProxyLoop):
    """Stands at ``base_url`` in front of ``upstream``. A context manager; orders may come from any thread."""

    def __enter__(self) -> FaultProxy:
        self._listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._commands.put(self._stop)
        self._wake()
        self._thread.join()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def exchanges(self) -> list[Exchange]:
        return list(self._log)

    def of(self, kind: str) -> list[Exchange]:
        return [e for e in self.exchanges if e.kind == kind]  # of a copy: the proxy goes on

    @property
    def connections(self) -> int:
        return len(self._pairs)

    def wait(self, predicate: Callable[[], bool], timeout: float = 10.0, what: str = "it") -> None:
        """Until ``predicate`` holds; looked at whenever something has happened here, and now and then."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not predicate():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{what}: not within {timeout:g} s")
                self._changed.wait(min(left, 0.02))

    def order(self, order: Order) -> Order:
        self._do(lambda: self._orders.append(order))
        return order

    def cut_request(self, at: int, match: Match = "post", *, reset: bool = True, times: float = 1) -> Order:
        """``at`` bytes of the request reach the server, then both connections break."""
        return self.order(Order(f"request cut at {at}", match, times, cut_at=at, reset=reset))

    def cut_answer(self, at: int, match: Match = "post", *, reset: bool = True, times: float = 1, **more: Any) -> Order:
        """``at`` bytes of the answer reach the client, then the connection breaks."""

        def change(answer: bytes) -> tuple[bytes, str]:
            return answer[:at], "reset" if reset else "close"

        return self.change(change, match, times=times, name=f"answer cut at {at}", **more)

    def change(
        self,
        change: Change,
        match: Match = "poll",
        *,
        times: float = 1,
        statuses: frozenset[int] | None = frozenset({200, 201}),
        name: str = "changed",
    ) -> Order:
        return self.order(Order(name, match, times, statuses=statuses, change=change))

    def answer(self, answer: bytes, match: Match = "any", *, then: str = "keep", times: float = 1) -> Order:
        """This answer; the server is not asked."""
        return self.order(Order("answered by the proxy", match, times, instead=(answer, then)))

    def swallow(self, match: Match = "post", *, times: float = 1, statuses: frozenset[int] | None = None) -> Order:
        """The server's answer is lost, and the connection stays open: no byte, no FIN, ever."""
        return self.change(lambda _: (b"", "hang"), match, times=times, statuses=statuses, name="swallowed")

    def drip(self, every: float, match: Match = "poll", *, times: float = 1, head: bool = False) -> Order:
        """The body, or with ``head`` the whole answer, comes byte by byte, one ``every`` so many seconds."""
        order = Order("dripping", match, times, statuses=frozenset({200}), drip=every, drip_head=head)
        return self.order(order)

    def clear(self) -> None:
        self._do(self._orders.clear)

    def cut_all(self, *, reset: bool = True) -> None:
        """All connections break now, whatever they are doing."""
        self._do(lambda: [self._close(pair, reset=reset) for pair in list(self._pairs)])

    def down(self) -> None:
        """Nothing listens any more, and what was connected breaks."""

        def act() -> None:
            if self._listener is not None:
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
            for pair in list(self._pairs):
                self._close(pair, reset=True)

        self._do(act)

    def up(self) -> None:
        self._do(self._listen)

    def move_to(self, upstream: str) -> None:
        """New connections go to another server."""
        parts = urlsplit(upstream)
        self._do(lambda: setattr(self, "_address", (parts.hostname or "127.0.0.1", parts.port or 80)))
