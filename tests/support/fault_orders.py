"""What the fault proxy sees (exchanges) and what it is told to do with them (orders)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Exchange:
    """One request and what became of it. Numbers count from 1."""

    number: int
    connection: int
    reused: bool  # the connection had carried another request before
    method: str
    path: str
    query: dict[str, list[str]]
    head: bytes
    started: float = field(default_factory=time.monotonic)
    request: bytes = b""
    status: int | None = None
    answer: bytes = b""  # as the server gave it
    fault: str | None = None

    @property
    def waits(self) -> bool:
        return self.kind == "poll"

    @property
    def kind(self) -> str:
        """``poll``, ``list``, ``post`` (of an event), ``read`` (of one event), ``session`` (made), or ``other``."""
        if self.path.endswith("/events"):
            if self.method == "POST":
                return "post"
            return "poll" if self.query.get("wait_for_data", ["60"]) != ["0"] else "list"
        if self.method == "GET" and "/events/" in self.path:
            return "read"
        return "session" if self.method == "POST" and self.path.endswith("/sessions") else "other"

    @property
    def min_offset(self) -> int | None:
        value = self.query.get("min_offset")
        return int(value[0]) if value else None


Match = str | Callable[[Exchange], bool]
# What is to be sent instead of an answer, and what becomes of the connection then: keep, close, reset or hang.
Change = Callable[[bytes], tuple[bytes, str]]


@dataclass(eq=False)
class Order:
    """A fault that was ordered. ``fired`` is set when it has happened ``times`` times."""

    name: str
    match: Match
    times: float
    statuses: frozenset[int] | None = None
    cut_at: int | None = None  # bytes of the request that still go to the server
    reset: bool = False
    change: Change | None = None
    instead: tuple[bytes, str] | None = None  # this answer, and the server is not asked
    drip: float | None = None  # seconds between two bytes of the answer
    drip_head: bool = False  # of its head, too
    fired: threading.Event = field(default_factory=threading.Event)
    exchanges: list[Exchange] = field(default_factory=list)

    def wants(self, exchange: Exchange) -> bool:
        if self.times <= 0:
            return False
        return (
            exchange.kind == self.match or self.match == "any" if isinstance(self.match, str) else self.match(exchange)
        )

    def note(self, exchange: Exchange) -> None:
        exchange.fault = self.name
        self.exchanges.append(exchange)
        self.times -= 1
        if self.times <= 0 or self.times == float("inf"):
            self.fired.set()

    def wait(self, timeout: float = 10.0) -> list[Exchange]:
        if not self.fired.wait(timeout):
            raise TimeoutError(f"the fault {self.name!r} did not happen within {timeout:g} s")
        return list(self.exchanges)


def content_length(head: bytes) -> int | None:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return None


def with_body(answer: bytes, body: bytes, *headers: bytes) -> bytes:
    """The answer with another body, whose length it says, and more headers."""
    lines = split_answer(answer)[0].split(b"\r\n")[:-2]
    kept = [line for line in lines if not line.lower().startswith(b"content-length:")]
    return b"\r\n".join([*kept, *headers, b"Content-Length: %d" % len(body), b"", body])


def split_answer(answer: bytes) -> tuple[bytes, bytes]:
    """The head (with its blank line) and the body."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    return head + blank, body
