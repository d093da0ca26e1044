"""Checks of the caller's arguments, before anything is sent. A mistake is one line that names the argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from parlant_sync.errors import ConfigurationError
from parlant_sync.events import Event, EventKind, EventSource, Mode, Moderation, PostSource, SessionInfo


def customer_message(value: object) -> None:
    if value is None:
        raise ConfigurationError("no message to wait for was given (TurnTimeout.event is None if nothing was posted)")
    if not isinstance(value, Event) or value.kind != "message" or value.source != "customer":
        raise ConfigurationError(f"the Event of a customer's message is needed, not {value!r}")


def key(value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"a key must be a non-empty string, not {value!r}")


def mapping(what: str, value: object) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigurationError(f"{what} must be a mapping, not {type(value).__name__}")
    if isinstance(value, Mapping) and not all(isinstance(name, str) for name in value):
        raise ConfigurationError(f"the names in {what} must be strings, not {list(value)!r}")


def speaker(source: str, participant: Mapping[str, Any] | None) -> None:
    """Who posts a message. A human agent needs a name: servers answer 422 without one."""
    one_of("source", source, get_args(PostSource))
    mapping("participant", participant)
    name = (participant or {}).get("display_name")
    if source != "customer" and (not isinstance(name, str) or not name):
        raise ConfigurationError(f'source={source!r} needs participant={{"display_name": ...}}, the name to show')


def labels(value: Any) -> list[str] | None:
    """Sorted, without repeats. A string is refused: it would be a list of its letters."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigurationError(f"labels must be a list of strings, not {value!r}")
    found = list(value)
    if not all(isinstance(label, str) for label in found):
        raise ConfigurationError(f"labels must be a list of strings, not {value!r}")
    return sorted(set(found))


# -- one of a few words


def one_of(what: str, value: object, known: Sequence[str]) -> None:
    if isinstance(value, str) and value in known:
        return
    import difflib  # only for a mistake

    close = difflib.get_close_matches(value, known, n=1, cutoff=0.5) if isinstance(value, str) else []
    hint = f"did you mean {close[0]!r}? It" if close else "it"
    raise ConfigurationError(f"{what} cannot be {value!r}; {hint} must be one of {', '.join(map(repr, known))}")


def kinds(value: Any) -> frozenset[str] | None:
    return _names("kinds", value, get_args(EventKind))


def sources(value: Any) -> frozenset[str] | None:
    return _names("sources", value, get_args(EventSource))


def mode(value: object) -> None:
    one_of("mode", value, get_args(Mode))


def moderation(value: object) -> None:
    one_of("moderation", value, get_args(Moderation))


def event_kind(value: object) -> None:
    """What ``post_event()`` takes."""
    if value == "message":
        raise ConfigurationError("post_event() does not post messages; use post(), send() or stream()")
    one_of("kind", value, ("custom", "status"))


def _names(what: str, value: Any, known: Sequence[str]) -> frozenset[str] | None:
    """One name, several, or None for all."""
    if value is None:
        return None
    if not isinstance(value, (str, Iterable)):
        raise ConfigurationError(f"{what} must be names like {known[0]!r}, not {value!r}")
    found = [value] if isinstance(value, str) else list(value)
    for name in found:
        one_of(what, name, known)
    return frozenset(found)


def guidelines(value: Any) -> list[dict[str, Any]]:
    """What an agent is to say: one action or several, each with or without its rationale."""
    if value is None:
        return []
    found: Sequence[Any] = (
        [value] if isinstance(value, (str, Mapping)) else list(value) if isinstance(value, Iterable) else [0]
    )
    if not all(isinstance(item, str) or (isinstance(item, Mapping) and "action" in item) for item in found):
        raise ConfigurationError(f"guidelines must be actions (strings) or mappings with an 'action', not {value!r}")
    return [{"action": item} if isinstance(item, str) else dict(item) for item in found]


def offset(since: object) -> int:
    """``"beginning"``, or an offset."""
    if since == "beginning":
        return 0
    if isinstance(since, bool) or not isinstance(since, int) or since < 0:
        raise ConfigurationError(f"since must be 'latest', 'beginning' or an offset (0 or more), not {since!r}")
    return since


# -- changes of a session


def session_changes(
    info: SessionInfo,
    *,
    title: str | None,
    mode: str | None,
    customer_id: str | None,
    metadata: Mapping[str, Any] | None,
    labels: Iterable[str] | None,
) -> dict[str, Any]:
    """The body of the request. Metadata of None is removed by name; the labels are to be exactly these."""
    named = {"title": title, "mode": mode, "customer_id": customer_id}
    found: dict[str, Any] = {name: value for name, value in named.items() if value is not None}
    if metadata is not None:
        found["metadata"] = {
            "set": {name: value for name, value in metadata.items() if value is not None},
            "unset": [name for name, value in metadata.items() if value is None],
        }
    if labels is not None:
        wanted = list(labels)
        found["labels"] = {"upsert": wanted, "remove": sorted(set(info.labels) - set(wanted))}
    return found


def not_kept(
    info: SessionInfo,
    *,
    metadata: Mapping[str, Any] | None,
    labels: Iterable[str] | None,
    customer_id: str | None = None,
) -> Iterator[tuple[str, str]]:
    """What the server did not take, and the version of Parlant that takes it (WIRE.md)."""
    if customer_id is not None and info.customer_id != customer_id:
        yield "customer_id", "3.1"
    if any(name not in info.metadata for name, value in (metadata or {}).items() if value is not None):
        yield "metadata", "3.1"
    if not set(labels or ()) <= set(info.labels):
        yield "labels", "3.2"
