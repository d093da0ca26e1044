"""What each Parlant version does differently, as far as a client can see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Version:
    """One server version's differences. Made by ``version``. The defaults are those of 3.3."""

    name: str
    """``"3.0"`` ... ``"4.0"``."""
    number: str
    """What ``/openapi.json`` says."""
    prefix_traces: bool = False
    """3.0: ``correlation_id`` only, the turn's has a suffix ``::process``."""
    metadata: bool = True
    """Events and sessions keep metadata (3.0 takes and drops it). Paging and ``PATCH events/{id}`` exist."""
    labels: bool = True
    """Sessions have labels."""
    stages: bool = True
    """The last ``ready`` of a turn says ``completed``. Messages can be streamed, and single events be read."""
    health: str | None = "healthy"
    """What ``/healthz`` says; None: 404."""
    stops: bool = False
    """A turn between its messages just stops when a newer message comes. Since 3.1 it finishes, and the POST waits."""
    reuses_offsets: bool = False
    """Offsets of deleted events are used again, and that deletion answers 500 if a turn has run."""
    tool_stage: str = "Fetching data"
    """The stage of the ``processing`` before a tool is called."""
    tool_guidelines: bool = False
    """A tool's result has ``guidelines``."""
    compass: bool = False
    """4.0: a second engine, Compass. ``tags`` are ``groups``, guests have tokens, and turns can be cancelled."""

    @property
    def tags(self) -> str:
        """What this version calls tags."""
        return "groups" if self.compass else "tags"


_VERSIONS = {
    v.name: v
    for v in (
        Version(
            name="3.0",
            number="0.1.0",
            prefix_traces=True,
            metadata=False,
            labels=False,
            stages=False,
            health=None,
            stops=True,
            reuses_offsets=True,
        ),
        Version(name="3.1", number="3.1.2", labels=False, stages=False, health="ok", reuses_offsets=True),
        Version(name="3.2", number="3.2.2", health="ok", reuses_offsets=True),
        Version(name="3.3", number="3.3.2", tool_stage="Considering tools", tool_guidelines=True),
        Version(name="4.0", number="4.0.0-alpha.1", tool_stage="Considering tools", tool_guidelines=True, compass=True),
    )
}


def version(name: str) -> Version:
    """Returns the version of that name (``"3.2"``, or ``"3.2.2"``). Raises ValueError for an unknown one."""
    short = ".".join(name.split(".")[:2])
    if short not in _VERSIONS:
        raise ValueError(f"FakeServer imitates Parlant {', '.join(_VERSIONS)}, not {name!r}")
    return _VERSIONS[short]
