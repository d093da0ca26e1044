"""What callers give, checked before anything is sent: a mistake is one line that names the argument."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from parlant_sync.errors import ConfigurationError
from parlant_sync.events import Event, SessionInfo


def message(value: object) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(f"the message must be a string, not {type(value).__name__}")


def customer_message(value: object) -> None:
    if value is None:
        raise ConfigurationError("there is no message to wait for (TurnTimeout.event is None where none was posted)")
    if not isinstance(value, Event) or value.kind != "message" or value.source != "customer":
        raise ConfigurationError(f"the Event of a customer's message is wanted, not {value!r}")


def key(value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"a key must be a non-empty string, not {value!r}")


def mapping(what: str, value: object) -> None:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigurationError(f"{what} must be a mapping, not {type(value).__name__}")
    if isinstance(value, Mapping) and not all(isinstance(name, str) for name in value):
        raise ConfigurationError(f"the names in {what} must be strings, not {list(value)!r}")


def labels(value: Any) -> list[str] | None:
    """Sorted, each once. A string is no list of labels: it would be one of its letters."""
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigurationError(f"labels must be a list of strings, not {value!r}")
    found = list(value)
    if not all(isinstance(label, str) for label in found):
        raise ConfigurationError(f"labels must be a list of strings, not {value!r}")
    return sorted(set(found))


def names(what: str, value: Any) -> frozenset[str] | None:
    """Kinds or sources: one name, several, or None for all."""
    if value is None:
        return None
    found: Sequence[Any] = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [None]
    if not all(isinstance(name, str) for name in found):
        raise ConfigurationError(f"{what} must be names like 'message', not {value!r}")
    return frozenset(found)


def guidelines(value: Any) -> list[dict[str, Any]]:
    """What an agent is to say: one action, or several, each with or without its rationale."""
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
        raise ConfigurationError(f"since must be 'latest', 'beginning' or an offset from 0 on, not {since!r}")
    return since


def session_changes(
    info: SessionInfo,
    *,
    title: str | None,
    mode: str | None,
    metadata: Mapping[str, Any] | None,
    labels: Iterable[str] | None,
) -> dict[str, Any]:
    """A change as the server takes it. Metadata of None is removed by its name; the labels are to be these alone."""
    found: dict[str, Any] = {}
    if title is not None:
        found["title"] = title
    if mode is not None:
        found["mode"] = mode
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
    info: SessionInfo, metadata: Mapping[str, Any] | None, labels: Iterable[str] | None
) -> Iterator[tuple[str, str]]:
    """What of these the server has not taken, and from which version on Parlant keeps that (WIRE.md)."""
    if any(name not in info.metadata for name, value in (metadata or {}).items() if value is not None):
        yield "metadata", "3.1"
    if not set(labels or ()) <= set(info.labels):
        yield "labels", "3.2"
