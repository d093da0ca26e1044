"""What is to be kept with a session on the server, and what an older server drops of it without a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from parlant_sync.events import SessionInfo


def body(
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


def dropped(
    info: SessionInfo, metadata: Mapping[str, Any] | None, labels: Iterable[str] | None
) -> Iterator[tuple[str, str]]:
    """What of these the server has not taken, and from which version on Parlant keeps that (WIRE.md)."""
    if any(name not in info.metadata for name, value in (metadata or {}).items() if value is not None):
        yield "metadata", "3.1"
    if not set(labels or ()) <= set(info.labels):
        yield "labels", "3.2"
