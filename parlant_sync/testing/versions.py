"""What each Parlant version does differently, as far as a client can see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Version:
    """One server version's differences. Made by :func:`version`."""

    name: str
    """``"3.0"`` ... ``"3.3"``."""
    number: str
    """What ``/openapi.json`` says."""
    prefix_traces: bool
    """3.0: ``correlation_id`` only, the turn's has a suffix ``::process``."""
    metadata: bool
    """Events and sessions keep metadata (3.0 takes and drops it); so do ``PATCH events/{id}`` and paging exist."""
    labels: bool
    """Sessions have labels."""
    stages: bool
    """The last ``ready`` of a turn says ``completed``; the message text can be streamed; single events can be read."""
    health: str | None
    """What ``/healthz`` says; None: 404."""
    stops: bool
    """A turn between its messages just stops when a newer message comes; from 3.1 on it finishes and the POST waits."""
    reuses_offsets: bool
    """Offsets of deleted events are used again; and that deletion answers 500 where a turn has run."""

    tool_stage: str
    """The stage of the ``processing`` before a tool is called."""
    tool_guidelines: bool
    """A tool's result has ``guidelines``."""


_VERSIONS = {
    v.name: v
    for v in (
        Version("3.0", "0.1.0", True, False, False, False, None, True, True, "Fetching data", False),
        Version("3.1", "3.1.2", False, True, False, False, "ok", False, True, "Fetching data", False),
        Version("3.2", "3.2.2", False, True, True, True, "ok", False, True, "Fetching data", False),
        Version("3.3", "3.3.2", False, True, True, True, "healthy", False, False, "Considering tools", True),
    )
}


def version(name: str) -> Version:
    """The version called so (``"3.2"``, or ``"3.2.2"``); ``ValueError`` where it is not one of 3.0 to 3.3."""
    short = ".".join(name.split(".")[:2])
    if short not in _VERSIONS:
        raise ValueError(f"FakeServer imitates Parlant {', '.join(_VERSIONS)}, not {name!r}")
    return _VERSIONS[short]
