"""One event of a session."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

from .messages import encode
from .versions import Version


def now() -> str:
    """The time as the API writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Event:
    """One event. `touch()` after a change, so that it is serialized again."""

    __slots__ = (
        "_body",
        "_version",
        "created",
        "data",
        "deleted",
        "id",
        "kind",
        "lenient",
        "metadata",
        "offset",
        "source",
        "trace",
    )

    def __init__(
        self,
        version: Version,
        id: str,
        offset: int,
        kind: str,
        source: str,
        trace: str,
        data: Any,
        metadata: dict[str, Any],
        created: str | None = None,
    ) -> None:
        self._version = version
        self._body: bytes | None = None
        self.id = id
        self.offset = offset
        self.kind = kind
        self.source = source
        self.trace = trace
        self.data = data
        self.metadata = metadata
        self.deleted = False
        self.lenient = False
        self.created = created or now()

    def dto(self) -> dict[str, Any]:
        """As the API shows it."""
        new = self._version.metadata
        return {
            "id": self.id,
            "source": self.source,
            "kind": self.kind,
            "offset": self.offset,
            "creation_utc": self.created,
            **({} if self._version.prefix_traces else {"trace_id": self.trace}),
            "correlation_id": self.trace,
            "data": self.data,
            **({"metadata": self.metadata} if new else {}),
            "deleted": self.deleted,
        }

    def body(self) -> bytes:
        """The same as bytes, made once: lists of 50,000 events must be quick."""
        if self._body is None:
            try:
                self._body = encode(self.dto())
            except UnicodeEncodeError:
                # Posted by a client: every list that has it is a 500, for ever. Put there by a test: to be seen.
                if not self.lenient:
                    raise
                self._body = json.dumps(self.dto(), separators=(",", ":")).encode()
        return self._body

    def touch(self) -> None:
        """It was changed."""
        self._body = None

    @property
    def complete(self) -> bool:
        """Not a streamed message that still grows."""
        chunks = self.data.get("chunks") if isinstance(self.data, dict) else None
        return chunks is None or bool(chunks and chunks[-1] is None)
