"""``--cursor-file``: how far a run of ``tail`` came, for the next one to go on from."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from parlant_sync import Event, Session
from parlant_sync.cli import output, statefiles
from parlant_sync.cli.failures import usage
from parlant_sync.cli.locks import Lock

_KIND = "cursor"
_FIELDS: dict[str, type] = {"server": str, "session_id": str, "next_offset": int}
# While events come thick and fast the file is written so often, in seconds; and always when they pause.
_OFTEN = 0.25


class Cursor:
    """The file, locked while entered. Moved only by :meth:`passed`: after the output of an event was flushed.

    Raises CommandError for what cannot be such a file.
    """

    def __init__(self, path: str, server: str, session_id: str, wait_lock: float | None, *, may_change: bool) -> None:
        if not path:
            raise usage("--cursor-file is empty; give it the path of a file")
        statefiles.check_regular(path)
        # A link stays one, and all its names share the lock.
        self._path = Path(os.path.realpath(path))
        self._server = server
        self._session_id = session_id
        self._may_change = may_change
        self._lock = Lock(self._path.with_name(self._path.name + ".lock"), f"the cursor {path}", wait_lock)
        self._next: int | None = None
        self._last_id = ""
        self._unsaved = False
        self._saved_at = 0.0

    def __enter__(self) -> Cursor:
        self._lock.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            self.save()
        finally:
            self._lock.__exit__(None, None, None)

    def load(self) -> int | None:
        """The offset to go on from; None the first time. Raises CommandError."""
        state = statefiles.read(self._path, _KIND, _FIELDS)
        if state is None:
            return None
        theirs = (state["server"], state["session_id"])
        if theirs != (self._server, self._session_id):
            if not self._may_change:
                raise usage(
                    f"the cursor file {self._path} belongs to session {theirs[1]} on {theirs[0]}; "
                    f"use another file for session {self._session_id} on {self._server}"
                )
            output.note(f"the conversation has a new session since {self._path} was written; beginning at its start")
            return None
        self._next, self._last_id = max(0, state["next_offset"]), str(state.get("last_event_id", ""))
        return self._next

    def check(self, session: Session) -> int | None:
        """The same offset, if the server still counts as it did; 0 where it began anew (events were deleted)."""
        if not self._next or not self._last_id:
            return self._next
        there = session.history(self._next - 1)
        if there and (there[0].offset >= self._next or there[0].id == self._last_id):
            return self._next
        output.note(f"events of session {session.id} were deleted on the server; reading it from its beginning")
        return 0

    def begin(self, offset: int) -> None:
        """Where reading begins is written down at once: a first run without events must not be forgotten."""
        if self._next != offset:
            self._next, self._last_id, self._unsaved = offset, "", True
            self.save()

    def passed(self, event: Event, *, pausing: bool) -> None:
        """This event's output is out. ``pausing``: no other is known to follow."""
        self._next, self._last_id, self._unsaved = event.offset + 1, event.id, True
        if pausing or time.monotonic() - self._saved_at >= _OFTEN:
            self.save()

    def save(self) -> None:
        if self._unsaved:
            statefiles.write(
                self._path,
                _KIND,
                {
                    "server": self._server,
                    "session_id": self._session_id,
                    "next_offset": self._next,
                    "last_event_id": self._last_id,
                },
            )
            self._unsaved = False
            self._saved_at = time.monotonic()
