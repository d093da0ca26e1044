"""State that outlives a run: small JSON files, written whole or not at all; their locks; the cursors of ``tail``."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from pathlib import Path
from typing import Any

from parlant_sync import Event, Session
from parlant_sync._file_lock import FileLock
from parlant_sync.cli import output
from parlant_sync.cli.errors import LOCKED, UNEXPECTED, CommandError, usage
from parlant_sync.cli.terminal import waiting_for

FORMAT = 1


class Damaged(CommandError):
    """A state file that cannot be read as one; it was moved aside to ``kept``."""

    def __init__(self, path: Path, kept: Path, why: str) -> None:
        super().__init__(
            UNEXPECTED,
            f"state file {path} is damaged ({why}); it is kept as {kept}: mend it and put it back, "
            "or run this again to start anew",
        )
        self.kept = kept


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
    """What :func:`write` wrote; None where there is no such file. Raises Damaged, CommandError."""
    check_regular(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise _set_aside(path, "no JSON" if data.strip() else "empty") from None
    if not isinstance(value, dict) or value.get("kind") != kind:
        raise _set_aside(path, f"not a {kind}")
    if value.get("format") != FORMAT:
        raise CommandError(
            UNEXPECTED, f"state file {path} is of format {value.get('format')!r}, which this version does not know"
        )
    for name, wanted in fields.items():
        if type(value.get(name)) is not wanted:
            raise _set_aside(path, f"no {name} in it")
    return value


def check_regular(path: str | Path) -> None:
    """Raises CommandError for what is there and no file: a device must not be moved, and a FIFO is never read to its
    end."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise usage(f"{path} is no regular file, and state is kept in one; give another path")


def peek(path: Path) -> dict[str, Any]:
    """The same without a judgement: empty where it cannot be read. Moves nothing."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write(path: Path, kind: str, value: dict[str, Any]) -> None:
    """Whoever reads the file, at any moment and after any crash, finds the old content or the new one. Mode 0600.

    The caller holds the file's lock, so that what a killed run left of its new file can be cleared away.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
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
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    """The rename itself is safe only then. Not every file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _set_aside(path: Path, why: str) -> Damaged:
    check_regular(path)  # once more: what is moved is the thing that is there now
    kept = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}")
    number = 0
    while True:
        try:
            os.link(path, kept)  # unlike a rename it never replaces what is there
            os.unlink(path)
            break
        except FileExistsError:
            number += 1
            kept = kept.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}-{number}")
        except (OSError, NotImplementedError):
            os.rename(path, kept)  # a file system without hard links
            break
    return Damaged(path, kept, why)


class Lock:
    """Held while entered. Raises CommandError (exit code 8) if another process holds it for ``wait`` seconds."""

    def __init__(self, path: Path, what: str, wait: float | None = 0.0) -> None:
        self._lock = FileLock(path)
        self._what = what
        self._wait = wait

    def __enter__(self) -> Lock:
        path = self._lock.path
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.ExitStack() as showing:
            if not self._lock.acquire(self._wait, lambda: showing.enter_context(waiting_for("another run to end"))):
                raise CommandError(
                    LOCKED,
                    f"another run is using {self._what} (lock {path}); let it end, or wait with --wait-lock SECONDS",
                )
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


# -- ``--cursor-file``: how far a run of ``tail`` came, for the next one to go on from.

_CURSOR = "cursor"
_CURSOR_FIELDS: dict[str, type] = {"server": str, "session_id": str, "next_offset": int}
# While events come thick and fast the file is written so often, in seconds; and always when they pause.
_OFTEN = 0.25


class Cursor:
    """The file, locked while entered. Moved only by :meth:`passed`: after the output of an event was flushed.

    Raises CommandError for what cannot be such a file.
    """

    def __init__(self, path: str, server: str, session_id: str, wait_lock: float | None, *, may_change: bool) -> None:
        if not path:
            raise usage("--cursor-file is empty; give it the path of a file")
        check_regular(path)
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
        state = read(self._path, _CURSOR, _CURSOR_FIELDS)
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
            write(
                self._path,
                _CURSOR,
                {
                    "server": self._server,
                    "session_id": self._session_id,
                    "next_offset": self._next,
                    "last_event_id": self._last_id,
                },
            )
            self._unsaved = False
            self._saved_at = time.monotonic()
