"""State that outlives a run: small JSON files, written whole or not at all; their locks; the cursors of ``tail``."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from parlant_sync import Event, Session
from parlant_sync._file_lock import FileLock, sync_folder
from parlant_sync.cli import output
from parlant_sync.cli.errors import LOCKED, UNEXPECTED, CommandError, usage
from parlant_sync.cli.terminal import waiting_for

FORMAT = 1
_C = TypeVar("_C", bound="CursorFile")


def default_directory() -> Path:
    """``$XDG_STATE_HOME/parlant-sync``; a relative XDG_STATE_HOME counts as none, as its specification says."""
    base = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "parlant-sync"
    try:
        return Path.home() / ".local" / "state" / "parlant-sync"
    except RuntimeError:  # no HOME, and a user that this system does not know: containers have that
        raise usage("there is no home folder to keep state in; say where with --state-dir") from None


def read(path: Path, kind: str, fields: dict[str, type]) -> dict[str, Any] | None:
    """What ``write`` wrote; None if there is no such file, or an empty one.

    Raises CommandError for any other content. The file is left as it is: it may belong to another program.
    """
    check_regular(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if not data.strip():
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("kind") != kind:
        raise usage(f"{path} is not a {kind} file of parlant-sync; give another path, or remove it")
    if value.get("format") != FORMAT:
        raise CommandError(
            UNEXPECTED, f"{path} has format {value.get('format')!r}, which this version of parlant-sync does not know"
        )
    for name, wanted in fields.items():
        if type(value.get(name)) is not wanted:
            raise usage(f"{path} is damaged: it has no {name}; repair it, or remove it to start again")
    return value


def check_regular(path: str | Path) -> None:
    """Raises CommandError for something that is not a file, such as a FIFO, which is never read to its end."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise usage(f"{path} is not a regular file; give another path")


def make_folder(folder: Path) -> None:
    """Make a folder and its parents for this user alone, whatever the umask is."""
    if not folder.is_dir():
        make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)


def peek(path: Path) -> dict[str, Any]:
    """The same without an error: empty if it cannot be read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write(path: Path, kind: str, value: dict[str, Any]) -> None:
    """Replace the file: at any moment, and after any crash, it has the old content or the new one. Mode 0600.

    The caller holds the file's lock, so what a killed run left behind can be removed.
    """
    make_folder(path.parent)
    text = json.dumps({"kind": kind, "format": FORMAT, **value}, indent=2) + "\n"
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    sync_folder(path.parent)


class Lock:
    """Held while entered. Raises CommandError (exit code 8) if another process holds it for ``wait`` seconds."""

    def __init__(self, path: Path, what: str, wait: float | None = 0.0) -> None:
        self._lock = FileLock(path)
        self._what = what
        self._wait = wait

    def __enter__(self) -> Lock:
        path = self._lock.path
        make_folder(path.parent)
        with contextlib.ExitStack() as showing:
            if not self._lock.acquire(self._wait, lambda: showing.enter_context(waiting_for("another run to end"))):
                raise CommandError(
                    LOCKED,
                    f"another run is using {self._what} (lock {path}); let it end, or wait with --wait-lock TIME",
                )
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


# Cursors of ``tail``. While events come quickly their file is written this often, in seconds; and whenever they pause.
_OFTEN = 0.25


class CursorFile(ABC):
    """How far a run of ``tail`` came, for the next run; locked while entered.

    Subclasses set ``unsaved`` after the output of an event is out, never before.
    """

    kind = ""
    fields: ClassVar[dict[str, type]] = {}

    def __init__(self, path: str, server: str, wait_lock: float | None) -> None:
        """Raises CommandError for what cannot be such a file."""
        if not path:
            raise usage("--cursor-file is empty; give it the path of a file")
        check_regular(path)
        # A link stays one, and all its names share the lock.
        self.path = Path(os.path.realpath(path))
        self.server = server
        self.unsaved = False
        self._lock = Lock(self.path.with_name(self.path.name + ".lock"), f"the cursor {path}", wait_lock)
        self._saved_at = 0.0

    def __enter__(self: _C) -> _C:
        read(self.path, self.kind, self.fields)  # a foreign file is refused before a lock file is put beside it
        self._lock.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.save()
        finally:
            self._lock.__exit__()

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """What is saved, apart from the server."""

    def save_often(self, *, pausing: bool) -> None:
        """``pausing``: no other event is known to follow."""
        if pausing or time.monotonic() - self._saved_at >= _OFTEN:
            self.save()

    def save(self) -> None:
        if self.unsaved:
            write(self.path, self.kind, {"server": self.server, **self.content()})
            self.unsaved = False
            self._saved_at = time.monotonic()


class Cursor(CursorFile):
    """The cursor of one session."""

    kind = "cursor"
    fields: ClassVar[dict[str, type]] = {"server": str, "session_id": str, "next_offset": int}

    def __init__(self, path: str, server: str, session_id: str, wait_lock: float | None, *, may_change: bool) -> None:
        super().__init__(path, server, wait_lock)
        self._session_id = session_id
        self._may_change = may_change
        self._next: int | None = None
        self._last_id = ""

    def content(self) -> dict[str, Any]:
        return {"session_id": self._session_id, "next_offset": self._next, "last_event_id": self._last_id}

    def load(self, session: Session) -> int | None:
        """The offset to continue from: 0 if events were deleted, None the first time. Raises CommandError."""
        state = read(self.path, self.kind, self.fields)
        if state is None:
            return None
        theirs = (state["server"], state["session_id"])
        if theirs != (self.server, self._session_id):
            if not self._may_change:
                raise usage(
                    f"the cursor file {self.path} belongs to session {theirs[1]} on {theirs[0]}; "
                    f"use another file for session {self._session_id} on {self.server}"
                )
            output.note(f"the conversation has a new session since {self.path} was written; reading it from its start")
            return None
        self._next, self._last_id = max(0, state["next_offset"]), str(state.get("last_event_id", ""))
        if self._next and self._last_id and not _continues(session.history(self._next - 1), self._next, self._last_id):
            output.note(f"events of session {session.id} were deleted on the server; reading it from its start")
            return 0
        return self._next

    def begin(self, offset: int) -> None:
        """Write down where reading begins: a first run without events must not be forgotten."""
        if self._next != offset:
            self._next, self._last_id, self.unsaved = offset, "", True
            self.save()

    def passed(self, event: Event, *, pausing: bool) -> None:
        """This event's output is out."""
        self._next, self._last_id, self.unsaved = event.offset + 1, event.id, True
        self.save_often(pausing=pausing)


def _continues(events: Sequence[Event], next_offset: int, last_id: str) -> bool:
    """Whether the server still counts as it did. ``events`` begin with the last one that was passed."""
    return bool(events) and (events[0].offset >= next_offset or events[0].id == last_id)


class Cursors(CursorFile):
    """The cursors of many sessions."""

    kind = "cursors"
    fields: ClassVar[dict[str, type]] = {"server": str, "sessions": dict}

    def __init__(self, path: str, server: str, wait_lock: float | None) -> None:
        super().__init__(path, server, wait_lock)
        self._next: dict[str, int] = {}

    def content(self) -> dict[str, Any]:
        return {"sessions": self._next}

    def load(self) -> dict[str, int] | None:
        """Session id -> the offset to continue from; None the first time. Raises CommandError."""
        state = read(self.path, self.kind, self.fields)
        if state is None:
            return None
        if state["server"] != self.server:
            raise usage(f"the cursor file {self.path} belongs to {state['server']}; use another file for {self.server}")
        self._next = {str(name): int(offset) for name, offset in state["sessions"].items()}
        return dict(self._next)

    def note(self, session_id: str, next_offset: int) -> None:
        """Where this session is read from, to be saved."""
        if self._next.get(session_id) != next_offset:
            self._next[session_id] = next_offset
            self.unsaved = True

    def passed(self, session_id: str, next_offset: int, *, save: bool) -> None:
        """The output of this session's events is out up to this offset. ``save``: write that down at once."""
        self.note(session_id, next_offset)
        self.save_often(pausing=save)

    def keep(self, session_ids: set[str]) -> None:
        """Forget sessions that the server does not have any more."""
        for gone in set(self._next) - session_ids:
            del self._next[gone]
            self.unsaved = True
