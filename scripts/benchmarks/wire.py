"""What the answering server says: events as a Parlant server of 3.3 writes them, made ahead of the measurement.

Standard library only, and nothing of ours: it runs in the answering server's own process.
"""

from __future__ import annotations

import json
import time
from typing import Any

STAMP = "sent_ns"
# Replaced by a number of the same length, so that a body's length is known before it is stamped.
_PLACE = "@" * 18
_UNSTAMPED = b'"%s"' % _PLACE.encode()
_CREATED = "2026-01-01T00:00:00.000000Z"
_PARTICIPANT = {"id": "agent-1", "display_name": "Agent"}
_TEXT = "The answer of an agent is a few sentences long, as this one is, and quotes what the customer asked for."


def event(offset: int, kind: str, source: str, data: Any, trace: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"event-{offset}",
        "source": source,
        "kind": kind,
        "offset": offset,
        "creation_utc": _CREATED,
        "trace_id": trace,
        "correlation_id": trace,
        "data": data,
        "metadata": {},
        "deleted": False,
        **more,
    }


def status(offset: int, name: str, trace: str, stage: str | None = None, **more: Any) -> dict[str, Any]:
    data = {"status": name, "data": {} if stage is None else {"stage": stage}}
    return event(offset, "status", "ai_agent", data, trace, **more)


def message(offset: int, text: str, trace: str, source: str = "ai_agent", **more: Any) -> dict[str, Any]:
    data = {"message": text, "participant": _PARTICIPANT, "flagged": False, "tags": []}
    return event(offset, "message", source, data, trace, **more)


def unstamped() -> dict[str, str]:
    return {STAMP: _PLACE}


def encode(events: list[dict[str, Any]]) -> bytes:
    # As compact as the real server's own encoder.
    return json.dumps(events, separators=(",", ":"), ensure_ascii=False).encode()


def history(count: int) -> bytes:
    """A long conversation: of eight events of a turn, two are messages."""
    names = ("acknowledged", "processing", "typing", "", "ready", "typing", "", "ready")
    events = []
    for offset in range(count):
        name, trace = names[offset % 8], f"trace-{offset // 8}"
        events.append(status(offset, name, trace) if name else message(offset, f"{_TEXT} {offset}", trace))
    return encode(events)


class Flood:
    """An endless log of which the server keeps the newest ``window`` events: gaps are normal (WIRE.md)."""

    def __init__(self, total: int, batch: int, window: int) -> None:
        self.total, self.batch, self.window = total, batch, window
        self.head = 0
        head, tail = encode([message(987654321, _TEXT, "trace-1", id="event-x")])[1:-1].split(b"987654321")
        self._before, self._after = head, tail + b","

    def poll(self, start: int) -> bytes | None:
        """The next events of a reader that keeps up; None when all have passed."""
        if start >= self.total:
            return None
        self.head = max(self.head, min(start + self.batch, self.total))
        return self.list(start, self.head)

    def list(self, start: int, end: int | None = None) -> bytes:
        end = self.head if end is None else end
        start = max(start, end - self.window, 0)
        body = self._after.join(self._before + b"%d" % offset for offset in range(start, end))
        return b"[" + body + self._after[:-1] + b"]" if end > start else b"[]"


class Turns:
    """One session that answers each message by a turn of so many seconds, in four batches; of 0 seconds, in one."""

    BATCHES = 4

    def __init__(self, length: float) -> None:
        self.gap = length / (self.BATCHES - 1)
        self.log: list[dict[str, Any]] = []
        self._turns = 0

    def post(self, text: str, metadata: Any) -> tuple[dict[str, Any], list[list[dict[str, Any]]]]:
        """The stored message, and the batches of the turn that answers it."""
        at = len(self.log)
        self._turns += 1
        trace = f"turn-{self._turns}"
        asked = message(at, text, "<main>", source="customer", metadata=metadata or {})
        batches = [
            [status(at + 1, "acknowledged", trace)],
            [status(at + 2, "processing", trace, "Interpreting"), status(at + 3, "typing", trace)],
            [message(at + 4, f"echo: {text}", trace), status(at + 5, "ready", trace)],
            [status(at + 6, "ready", trace, "completed", metadata=unstamped())],
        ]
        if not self.gap:
            batches = [[event for batch in batches for event in batch]]
        return asked, batches


def stamped(body: bytes) -> bytes:
    """The time of sending is the last thing that is put into a body: monotonic, one clock for all processes."""
    return body.replace(_UNSTAMPED, b"%20d" % time.monotonic_ns())
