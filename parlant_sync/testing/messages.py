"""Requests and responses, as the HTTP layer hands them on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any


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
        """The body as JSON; None where it is empty or no JSON."""
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
    stream: AsyncIterator[bytes] | None = None
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


def dechunk(data: bytes) -> tuple[bytes, int] | None:
    """The body of a chunked request and how many bytes it took; None: not complete yet."""
    body, position = b"", 0
    while True:
        end = data.find(b"\r\n", position)
        if end < 0:
            return None
        size = int(data[position:end].split(b";")[0], 16)
        start, position = end + 2, end + 2 + size + 2
        if len(data) < position:
            return None
        body += data[start : start + size]
        if size == 0:
            return body, position
