"""The frozen values that calls return, and the tolerant reading of a server's JSON into them.

A newer server may add kinds, sources and fields. They are kept in ``raw`` and are never an error. An event must have
one thing: an integer ``offset``, because without it events cannot be put in order.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, ClassVar, Literal, NoReturn

# What is known today. A newer server may send other values: they are read as they are.
EventKind = Literal["message", "status", "tool", "custom"]
EventSource = Literal[
    "customer", "customer_ui", "ai_agent", "human_agent", "human_agent_on_behalf_of_ai_agent", "system"
]
Outcome = Literal["answered", "empty", "human", "cancelled"]
Mode = Literal["auto", "manual"]
Moderation = Literal["auto", "paranoid", "none"]
PostSource = Literal["customer", "human_agent", "human_agent_on_behalf_of_ai_agent"]
Since = int | Literal["latest", "beginning"]

# The trace that servers on FastAPI 0.137 or newer put on every customer event (WIRE.md, "Trace ID").
ANONYMOUS_TRACE = "<main>"
PREAMBLE_TAG = "__preamble__"
# Beyond it, JSON numbers are not exact everywhere; and no log is that long: the next poll would never get an event.
_OFFSETS = 2**53
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
        # Without a zone it could not be compared with the others. Servers say UTC (WIRE.md).
        found = found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)
        found.astimezone(timezone.utc)  # at the ends of the calendar, what is done with it later would overflow
    except (ValueError, OverflowError):
        return None
    return found


def _plain(value: Any) -> Any:
    """``value`` as ``json.dumps`` takes it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (Event, Value)):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _short(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


class Value:
    """The base of all values but ``Event``.

    It has the methods that ``dataclass`` would compile for each class again, which is half of their cost at import.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        fields = self.__dataclass_fields__.values()
        return hash(tuple(getattr(self, each.name) for each in fields if each.hash is not False))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__dataclass_fields__)
        return f"{type(self).__qualname__}({shown})"

    def to_dict(self) -> dict[str, Any]:
        """The fields as a new dict that ``json.dumps`` takes; times are ISO 8601 strings."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__ if name != "raw"}


class Event:
    """One event of a session, as the server stored it. Frozen; safe to share between threads.

    ``raw`` is the server's JSON object; do not change it. Everything else is read from it when asked for, so that
    50,000 events cost little more than parsing their JSON.
    """

    __slots__ = ("offset", "raw")

    raw: dict[str, Any]
    offset: int

    def __init__(self, raw: dict[str, Any]) -> None:
        """Raises ``ValueError`` if ``raw`` is not an object with an integer ``offset``."""
        try:
            offset = raw["offset"]
        except (KeyError, TypeError, IndexError):
            raise ValueError("an event without an offset") from None
        if type(offset) is not int or not 0 <= offset < _OFFSETS:
            raise ValueError("an event whose offset is not a whole number from 0 to 2**53")
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
        when = "" if self.created is None else f" {self.created:%H:%M:%S}"
        return f"<Event {self.offset}{when} {self.source} {self.kind}: {_short(self._summary())}>"

    def _repr_markdown_(self) -> str:
        if self.kind == "message":
            name = self.participant.get("display_name")
            who = name if isinstance(name, str) and name else self.source
            return f"**{_in_markdown(who)}:** {self.message or ''}"
        if self.kind == "status":
            return f"*{_in_markdown(self.source)}: {_in_markdown(self._summary())}*"
        shown = json.dumps(self.data, ensure_ascii=False, indent=2, default=repr)
        return f"**{_in_markdown(self.source)}**, {_in_markdown(self.kind)}:\n\n{_code_block(shown)}"

    def _summary(self) -> str:
        """What the event says, on one line."""
        if self.kind == "message":
            return repr(self.message)
        if self.kind == "status":
            return f"{self.status} ({self.stage})" if self.stage else str(self.status)
        if self.kind == "tool":
            return ", ".join(str(call.get("tool_id")) for call in self.tool_calls) or "no calls"
        return repr(self.data)

    def to_dict(self) -> dict[str, Any]:
        """The event's fields as a new dict that ``json.dumps`` takes; ``created`` is an ISO 8601 string."""
        names = ("id", "offset", "kind", "source", "trace_id", "created", "data", "metadata")
        return {name: _plain(getattr(self, name)) for name in names}

    @property
    def id(self) -> str:
        found = self.raw.get("id")
        return found if isinstance(found, str) else ""

    @property
    def kind(self) -> EventKind:
        """``"message"``, ``"status"``, ``"tool"`` or ``"custom"``; a newer server may send another one."""
        found = self.raw.get("kind")
        return found if isinstance(found, str) else ""  # type: ignore[return-value]

    @property
    def source(self) -> EventSource:
        """``"customer"``, ``"customer_ui"``, ``"ai_agent"``, ``"human_agent"``, ``"system"``, ..."""
        found = self.raw.get("source")
        return found if isinstance(found, str) else ""  # type: ignore[return-value]

    @property
    def trace_id(self) -> str:
        """What the events of one turn share (3.0 calls it ``correlation_id``)."""
        found = self.raw.get("trace_id") or self.raw.get("correlation_id")
        return found if isinstance(found, str) else ""

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
        raw = self.raw
        data = raw.get("data") if raw.get("kind") == "message" else None
        found = data.get("message") if isinstance(data, dict) else None
        return found if isinstance(found, str) else None

    @property
    def status(self) -> str | None:
        """``"acknowledged"``, ``"typing"``, ``"processing"``, ``"ready"``, ``"cancelled"``, ``"error"``, else None."""
        raw = self.raw
        data = raw.get("data") if raw.get("kind") == "status" else None
        found = data.get("status") if isinstance(data, dict) else None
        return found if isinstance(found, str) else None

    @property
    def stage(self) -> str | None:
        """The stage of a status event: ``"completed"`` on the last ``ready`` of a turn, from 3.2 on."""
        raw = self.raw
        data = raw.get("data") if raw.get("kind") == "status" else None
        inner = data.get("data") if isinstance(data, dict) else None
        found = inner.get("stage") if isinstance(inner, dict) else None
        return found if isinstance(found, str) else None

    @property
    def participant(self) -> Mapping[str, Any]:
        """Who speaks: ``id`` and ``display_name``, if the event has them."""
        return _mapping(_mapping(self.data).get("participant"))

    @property
    def is_preamble(self) -> bool:
        """Whether this is the agent's "Let me check...", which is not part of the answer."""
        return self.raw.get("kind") == "message" and PREAMBLE_TAG in self._tags

    @property
    def flagged(self) -> bool:
        """Whether the server's moderation flagged this customer's message."""
        return self.kind == "message" and self.source == "customer" and _mapping(self.data).get("flagged") is True

    @property
    def moderation_tags(self) -> tuple[str, ...]:
        """What the moderation found in this customer's message, such as ``"jailbreak"``; usually empty."""
        return self._tags if self.kind == "message" and self.source == "customer" else ()

    @property
    def _tags(self) -> tuple[str, ...]:
        """``tags``; from Parlant 4.0 on they are called ``groups``."""
        found: list[str] = []
        data = self.raw.get("data")
        if isinstance(data, dict):
            for tags in (data.get("tags"), data.get("groups")):
                if isinstance(tags, list):
                    found += [tag for tag in tags if isinstance(tag, str)]
        return tuple(found)

    @property
    def is_partial(self) -> bool:
        """Whether this is a streamed message that is not complete: its ``chunks`` do not end with null (WIRE.md)."""
        raw = self.raw
        data = raw.get("data") if raw.get("kind") == "message" else None
        chunks = data.get("chunks") if isinstance(data, dict) else None
        return isinstance(chunks, list) and (not chunks or chunks[-1] is not None)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The calls of a tool event, each with ``tool_id``, ``arguments`` and ``result``; else empty."""
        raw = self.raw
        data = raw.get("data") if raw.get("kind") == "tool" else None
        calls = data.get("tool_calls") if isinstance(data, dict) else None
        return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []

    @property
    def error_detail(self) -> str:
        """The text of an ``error`` status; empty for everything else."""
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
    # Not every store keeps the documented order. Of two with the same offset, the later one wins: it has grown.
    return [event for _, event in sorted({event.offset: event for event in events}.items())]


def _in_markdown(text: str) -> str:
    """``text`` without a meaning in Markdown."""
    return "".join(f"\\{char}" if char in r"\`*_{}[]<>()#+-.!|~" else char for char in text)


def _code_block(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}json\n{text}\n{fence}"


@dataclass(frozen=True, repr=False, eq=False)
class Reply(Value):
    """What one turn said. Frozen; ``str(reply)`` is its text.

    ``text`` is the answer alone: its messages joined by a blank line, without the preambles. ``outcome`` is
    ``"answered"``, ``"empty"`` (the turn ended without a message), ``"human"`` (a human agent answered) or
    ``"cancelled"`` (the turn was stopped from outside; ``text`` is what the agent had said). ``matched_guidelines``,
    ``matched_journeys`` and ``matched_journey_states`` are ids (Parlant 3.2 or newer). ``request`` is the message that
    was answered (None after ``trigger()``). ``duration`` is in seconds, from the post to the turn's last event.
    """

    text: str
    outcome: Outcome
    messages: tuple[Event, ...] = ()
    preambles: tuple[Event, ...] = ()
    tool_calls: tuple[dict[str, Any], ...] = field(default=(), hash=False)
    matched_guidelines: tuple[str, ...] = ()
    matched_journeys: tuple[str, ...] = ()
    matched_journey_states: tuple[str, ...] = ()
    events: tuple[Event, ...] = ()
    request: Event | None = None
    trace_id: str = ""
    duration: float = 0.0

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<Reply {self.outcome} in {self.duration:.1f} s: {_short(self.text)!r}>"

    def _repr_markdown_(self) -> str:
        return self.text or f"*({self.outcome})*"


@dataclass(frozen=True, repr=False, eq=False)
class Agent(Value):
    """An agent of the server."""

    id: str
    name: str
    description: str | None
    raw: dict[str, Any] = field(hash=False)

    def __repr__(self) -> str:
        return f"<Agent {self.id!r} {_short(self.name)!r}>"


@dataclass(frozen=True, repr=False, eq=False)
class ServerAbilities(Value):
    """What the server can do, recognised from the fields of its session objects (WIRE.md, "Which server is this")."""

    metadata: bool  # 3.1 and later: keeps metadata and keys
    labels: bool  # 3.2 and later; these servers also mark the end of a turn ("staged")
    cancel: bool  # 4.0 and later: can cancel a turn

    @classmethod
    def of(cls, session: Mapping[str, Any]) -> ServerAbilities:
        """``session`` is the JSON object of a session."""
        return cls("metadata" in session, "labels" in session, "modified_utc" in session)

    @property
    def version(self) -> str:
        """The versions of Parlant that this can be, for messages."""
        if self.cancel:
            return "4.0 or newer"
        return "3.2 or 3.3" if self.labels else "3.1" if self.metadata else "3.0"


@dataclass(frozen=True, repr=False, eq=False)
class SessionInfo(Value):
    """A session as the server lists it. ``created`` is the server's time; ``labels`` is empty before 3.2."""

    id: str
    agent_id: str
    customer_id: str
    title: str | None
    mode: Mode
    metadata: Mapping[str, Any] = field(hash=False)
    labels: tuple[str, ...]
    created: datetime | None
    raw: dict[str, Any] = field(hash=False)

    def __repr__(self) -> str:
        title = "" if self.title is None else f" {_short(self.title)!r}"
        when = "" if self.created is None else f", {self.created:%Y-%m-%d %H:%M}"
        return f"<SessionInfo {self.id!r}{title} of agent {self.agent_id!r}{when}>"


@dataclass(frozen=True, repr=False, eq=False)
class ServerInfo(Value):
    """What a server reports about itself. ``latency`` is one small request in seconds, on an open connection."""

    version: str | None
    healthy: bool
    latency: float


@dataclass(frozen=True, repr=False, eq=False)
class SessionHealth(Value):
    """How the polling of a session goes. ``state``: new, polling, waiting (backing off), parked or ended."""

    state: str
    last_poll: datetime | None
    consecutive_failures: int
    last_error: str | None
    next_offset: int
    reconnects: int
    backlog: int

    def __repr__(self) -> str:
        error = "" if self.last_error is None else f", last error: {self.last_error[:100]}"
        return f"<SessionHealth {self.state}, {self.consecutive_failures} failures in a row{error}>"


@dataclass(frozen=True, repr=False, eq=False)
class ClientStats(Value):
    """Sums over the sessions that are open now.

    ``limited_for``: after a 429, the seconds until this client's requests go on; 0.0 if none is held back.
    """

    sessions: int
    polls: int
    idle_polls: int
    events: int
    bytes: int
    reconnects: int
    failures: int
    backlog: int
    limited_for: float


def _identified(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(value.get("id"), str) or not value["id"]:
        raise ValueError(f"{what} with an id was expected")
    return value


def read_agent(value: object) -> Agent:
    """Raises ``ValueError`` if this is not an agent."""
    raw = _identified(value, "an agent")
    return Agent(raw["id"], _text(raw.get("name")) or raw["id"], _text(raw.get("description")), raw)


def read_session(value: object) -> SessionInfo:
    """Raises ``ValueError`` if this is not a session."""
    raw = _identified(value, "a session")
    labels = raw.get("labels")
    return SessionInfo(
        id=raw["id"],
        agent_id=_text(raw.get("agent_id")) or "",
        customer_id=_text(raw.get("customer_id")) or "",
        title=_text(raw.get("title")),
        mode=_text(raw.get("mode")) or "auto",  # type: ignore[arg-type]
        metadata=_mapping(raw.get("metadata")),
        labels=tuple(sorted(label for label in labels if isinstance(label, str))) if isinstance(labels, list) else (),
        created=_datetime(raw.get("creation_utc")),
        raw=raw,
    )


def select(events: Iterable[Event], kinds: frozenset[str] | None, sources: frozenset[str] | None) -> list[Event]:
    """The events of these kinds and sources; None takes all."""
    if kinds is None and sources is None:
        return list(events)
    return [e for e in events if (kinds is None or e.kind in kinds) and (sources is None or e.source in sources)]
