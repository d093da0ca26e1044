"""Frozen values of the sessions API, and the tolerant reading of JSON values into them.

A server newer than this library may add kinds, sources and fields: all are kept in ``raw``, none is an error. The one
thing an event must have is an integer ``offset``, because without it nothing can be put in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NoReturn

# The literal that servers on FastAPI 0.137 or newer put on every customer event (WIRE.md, "trace").
ANONYMOUS_TRACE = "<main>"
PREAMBLE_TAG = "__preamble__"
HUMAN_SOURCES = frozenset({"human_agent", "human_agent_on_behalf_of_ai_agent"})


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _datetime(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return None
    # Without a zone it could not be compared with the others. Servers say UTC (WIRE.md).
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)


class Event:
    """One event of a session, as the server stored it. Frozen; safe to share between threads.

    Everything is read from ``raw`` (the JSON object itself, not to be changed) when it is asked for, so that fifty
    thousand events cost little more than parsing their JSON.
    """

    __slots__ = ("offset", "raw")

    raw: dict[str, Any]
    offset: int

    def __init__(self, raw: dict[str, Any]) -> None:
        """Raises ``ValueError`` where ``raw`` is no object with an integer ``offset``."""
        try:
            offset = raw["offset"]
        except (KeyError, TypeError, IndexError):
            raise ValueError("an event without an offset") from None
        if type(offset) is not int:
            raise ValueError("an event whose offset is no whole number")
        _set_raw(self, raw)
        _set_offset(self, offset)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an Event is frozen: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an Event is frozen: cannot delete {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return Event, (self.raw,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash((self.offset, self.id))

    def __repr__(self) -> str:
        what = self.status if self.kind == "status" else self.message
        return f"Event(offset={self.offset}, kind={self.kind!r}, source={self.source!r}, {what!r})"

    @property
    def id(self) -> str:
        return _text(self.raw.get("id")) or ""

    @property
    def kind(self) -> str:
        """``"message"``, ``"status"``, ``"tool"``, ``"custom"``, or whatever a newer server says."""
        return _text(self.raw.get("kind")) or ""

    @property
    def source(self) -> str:
        """``"customer"``, ``"customer_ui"``, ``"ai_agent"``, ``"human_agent"``, ``"system"``, ..."""
        return _text(self.raw.get("source")) or ""

    @property
    def trace_id(self) -> str:
        """What the events of one turn share (3.0 calls it ``correlation_id``)."""
        return _text(self.raw.get("trace_id")) or _text(self.raw.get("correlation_id")) or ""

    @property
    def created(self) -> datetime | None:
        """When the server stored it (its clock)."""
        return _datetime(self.raw.get("creation_utc"))

    @property
    def data(self) -> Any:
        return self.raw.get("data")

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Empty on 3.0, which drops it."""
        return _mapping(self.raw.get("metadata"))

    @property
    def message(self) -> str | None:
        """The text of a message event, else None."""
        return _text(_mapping(self.data).get("message")) if self.kind == "message" else None

    @property
    def status(self) -> str | None:
        """``"acknowledged"``, ``"typing"``, ``"processing"``, ``"ready"``, ``"cancelled"``, ``"error"``, else None."""
        return _text(_mapping(self.data).get("status")) if self.kind == "status" else None

    @property
    def stage(self) -> str | None:
        """The stage of a status event: ``"completed"`` on the last ``ready`` of a turn, from 3.2 on."""
        return _text(_mapping(_mapping(self.data).get("data")).get("stage")) if self.kind == "status" else None

    @property
    def participant(self) -> Mapping[str, Any]:
        """Who speaks: ``id`` and ``display_name``, where the event has them."""
        return _mapping(_mapping(self.data).get("participant"))

    @property
    def is_preamble(self) -> bool:
        """Whether this is the agent's "Let me check...", which is no part of the answer."""
        tags = _mapping(self.data).get("tags")
        return self.kind == "message" and isinstance(tags, list) and PREAMBLE_TAG in tags

    @property
    def is_partial(self) -> bool:
        """Whether this is a streamed message that still grows: its ``chunks`` do not end with null (WIRE.md)."""
        if self.kind != "message":
            return False
        chunks = _mapping(self.data).get("chunks")
        return isinstance(chunks, list) and (not chunks or chunks[-1] is not None)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls of a tool event, each with ``tool_id``, ``arguments`` and ``result``; else empty."""
        calls = _mapping(self.data).get("tool_calls") if self.kind == "tool" else None
        return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []

    @property
    def error_detail(self) -> str:
        """What the engine said with an ``error`` status; empty for everything else."""
        if self.status != "error":
            return ""
        detail = _mapping(_mapping(self.data).get("data"))
        return _text(detail.get("exception")) or _text(detail.get("message")) or ""


# The only writers of a frozen event's slots.
_set_raw = Event.__dict__["raw"].__set__
_set_offset = Event.__dict__["offset"].__set__


def read_events(value: object) -> list[Event]:
    """The events of a list's body in offset order, each offset once. Raises ``ValueError`` for anything else."""
    if not isinstance(value, list):
        raise ValueError(f"a list of events was expected, not {type(value).__name__}")
    events = [Event(item) for item in value]
    last = -1
    for event in events:
        if event.offset <= last:
            break
        last = event.offset
    else:
        return events
    # The order is documented, not promised by every store. Of two with one offset the later stands: it has grown.
    return [event for _, event in sorted({event.offset: event for event in events}.items())]


@dataclass(frozen=True)
class Reply:
    """What one turn said. Frozen; ``str(reply)`` is its text.

    ``text`` is the answer alone, its messages joined by a blank line, without the preambles. ``outcome`` is
    ``"answered"``, ``"empty"`` (the turn ended without a message) or ``"human"`` (a human agent answered). ``request``
    is the message that was answered (None after ``trigger()``), ``trace_id`` the turn's, ``duration`` is in seconds,
    from the post to the end.
    """

    text: str
    outcome: str
    messages: tuple[Event, ...] = ()
    preambles: tuple[Event, ...] = ()
    tool_calls: tuple[dict[str, Any], ...] = field(default=(), hash=False)
    events: tuple[Event, ...] = ()
    request: Event | None = None
    trace_id: str = ""
    duration: float = 0.0

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Agent:
    """An agent of the server."""

    id: str
    name: str
    description: str | None
    raw: dict[str, Any] = field(repr=False, hash=False)


@dataclass(frozen=True)
class SessionInfo:
    """A session as the server lists it. ``created`` is the server's time, ``labels`` is empty before 3.2."""

    id: str
    agent_id: str
    customer_id: str
    title: str | None
    mode: str
    metadata: Mapping[str, Any] = field(hash=False)
    labels: tuple[str, ...]
    created: datetime | None
    raw: dict[str, Any] = field(repr=False, hash=False)


@dataclass(frozen=True)
class ServerInfo:
    """What a server tells of itself. ``latency`` is one small request in seconds, on an open connection."""

    version: str | None
    healthy: bool
    latency: float


def _identified(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("id"), str) or not value["id"]:
        raise ValueError(f"{what} with an id was expected")
    return value


def read_agent(value: object) -> Agent:
    """Raises ``ValueError`` where this is no agent."""
    raw = _identified(value, "an agent")
    return Agent(raw["id"], _text(raw.get("name")) or raw["id"], _text(raw.get("description")), raw)


def read_session(value: object) -> SessionInfo:
    """Raises ``ValueError`` where this is no session."""
    raw = _identified(value, "a session")
    labels = raw.get("labels")
    return SessionInfo(
        id=raw["id"],
        agent_id=_text(raw.get("agent_id")) or "",
        customer_id=_text(raw.get("customer_id")) or "",
        title=_text(raw.get("title")),
        mode=_text(raw.get("mode")) or "auto",
        metadata=_mapping(raw.get("metadata")),
        labels=tuple(sorted(label for label in labels if isinstance(label, str))) if isinstance(labels, list) else (),
        created=_datetime(raw.get("creation_utc")),
        raw=raw,
    )


def select(events: Iterable[Event], kinds: frozenset[str] | None, sources: frozenset[str] | None) -> list[Event]:
    """The events of these kinds and sources; None takes all."""
    return [e for e in events if (kinds is None or e.kind in kinds) and (sources is None or e.source in sources)]
