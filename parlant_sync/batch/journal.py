"""The files of a batch: lines that only grow, and the journal that says what may be posted before it is.

A crash at any moment leaves both files readable: a write is synced, a torn last line is taken off, and a failing write
(a full disk) is taken back.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from parlant_sync import ConcurrencyError, ConfigurationError
from parlant_sync._file_lock import sync_folder, try_lock
from parlant_sync.batch.results import Result, TurnResult
from parlant_sync.batch.rows import Row

_VERSION = 1
# They hold conversations.
_MODE = 0o600
# JSON allows these in a text as they are, and many programs take them for the end of a line.
_LINE_ENDS = re.compile("[\x85\u2028\u2029]")


class BatchLocked(ConcurrencyError):
    """Another run works on the same results."""


class LineFile:
    """JSON objects, one a line, appended and synced. For one thread at a time.

    ``first`` is the name that each line begins with: a torn last line is only cut off if it is one of ours.
    ``look_only`` changes nothing, makes nothing, and locks nothing.
    """

    def __init__(self, path: Path, first: str, *, look_only: bool = False) -> None:
        self.path = path
        self._look_only = look_only
        self._begins = f'{{"{first}"'.encode()
        self._fd = -1
        self._made = False
        if look_only:
            if path.exists():
                self._fd = os.open(path, os.O_RDONLY)
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
        try:
            self._fd = os.open(path, flags | os.O_EXCL, _MODE)
            self._made = True
        except FileExistsError:
            self._fd = os.open(path, flags, _MODE)
        _opened.add(self)
        if self._made:
            sync_folder(path.parent)

    def lock(self) -> None:
        """Keep every other run away until this file is closed. Raises BatchLocked at once if another run has it."""
        if self._look_only:
            return
        # A file without a name was discarded by a run that has just ended: its lock keeps nobody away.
        if not try_lock(self._fd) or os.fstat(self._fd).st_nlink == 0:
            raise BatchLocked(f"another run is working on {self.path}; wait for its end")

    def read(self, take: Callable[[dict[str, Any]], object]) -> None:
        """Give every line to ``take``. A torn last line is taken off (or completed) after all others were accepted.

        Raises ConfigurationError for a file that is not ours: ``take`` refuses by KeyError, TypeError, ValueError.
        """
        if self._fd < 0:
            return
        with open(self._fd, "rb", closefd=False) as file:
            file.seek(0)
            data = file.read()
        lines = data.split(b"\n")
        torn = lines.pop()
        for number, line in enumerate(lines, 1):
            self._accept(line, number, take)
        if torn:
            self._mend(torn, len(data), len(lines) + 1, take)

    def _accept(self, line: bytes, number: int, take: Callable[[dict[str, Any]], object]) -> None:
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or not line.startswith(self._begins):
                raise ValueError("of another kind")
            take(value)
        except ConfigurationError:
            raise
        except (KeyError, TypeError, ValueError):
            raise ConfigurationError(
                f"{self.path}, line {number}: this was not written by a batch; give another file for the results"
            ) from None

    def _mend(self, torn: bytes, size: int, number: int, take: Callable[[dict[str, Any]], object]) -> None:
        # Cut in the middle, or (after a power failure) filled with zeros by the file system.
        rest = torn.rstrip(b"\0")
        try:
            json.loads(torn)
        except ValueError:
            if not rest.startswith(self._begins[: len(rest)]):
                self._accept(torn, number, take)  # refuses it
            if not self._look_only:
                os.ftruncate(self._fd, size - len(torn))
        else:
            self._accept(torn, number, take)
            if not self._look_only:
                os.write(self._fd, b"\n")  # whole but for its newline
        if not self._look_only:
            os.fsync(self._fd)

    def append(self, values: Iterable[dict[str, Any]]) -> None:
        """Write all of them to the disk; if that fails, none of them: the file is as before, and OSError is raised."""
        data = b"".join(_line(value) for value in values)
        if not data:
            return
        size = os.fstat(self._fd).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(self._fd, data[written:])
            os.fsync(self._fd)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, size)
            if isinstance(error, OSError):
                raise OSError(error.errno, error.strerror, os.fspath(self.path)) from error
            raise

    def discard(self) -> None:
        """Close, and remove the file if this object has made it. Only for the holder of the lock, if there is one."""
        if self._made:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Releases the lock, too. Idempotent."""
        _opened.discard(self)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _line(value: dict[str, Any]) -> bytes:
    """The value as one line of UTF-8, readable as it is: ``grep`` finds what a user would type."""
    text = json.dumps(value, ensure_ascii=False)
    text = _LINE_ENDS.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:  # half a character, which has no UTF-8
        return json.dumps(value).encode() + b"\n"


# A forked worker process must not keep the lock of a parent that was killed: it closes its copies.
_opened: weakref.WeakSet[LineFile] = weakref.WeakSet()


def _after_fork() -> None:
    for file in list(_opened):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True)
class Entry:
    """One message of a row that may be posted from now on.

    ``started`` names the attempt (its result has the same), ``at`` is the wall clock's time in seconds, since another
    process may have to count from it. ``agent`` is the row's agent (None for a given session), ``turns`` are the
    earlier messages of the row, each over.
    """

    row: str
    started: str
    session: str
    turn: int
    key: str
    at: float
    digest: str
    agent: str | None = None
    turns: tuple[TurnResult, ...] = ()

    def to_json(self) -> dict[str, Any]:
        # The turns before the last are in earlier lines.
        value = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "turns"}
        return {**value, "before": self.turns[-1].to_json() if self.turns else None}

    @staticmethod
    def read(value: Mapping[str, Any], earlier: Entry | None) -> Entry:
        """Raises KeyError, TypeError, ValueError for anything else."""
        turn, before = int(value["turn"]), value["before"]
        known = earlier.turns if earlier is not None and earlier.started == value["started"] else ()
        turns = known[: max(0, turn - 1)] + ((TurnResult.read(before),) if before is not None else ())
        if len(turns) != turn:
            raise ValueError("an entry whose earlier turns are missing")
        agent = value.get("agent")
        return Entry(
            row=str(value["row"]),
            started=str(value["started"]),
            session=str(value["session"]),
            turn=turn,
            key=str(value["key"]),
            at=float(value["at"]),
            digest=str(value["digest"]),
            agent=None if agent is None else str(agent),
            turns=turns,
        )


class Journal:
    """The journal of one results file, next to it. For one thread at a time; locked for as long as it is open.

    ``server`` and ``guest_token`` (of a 4.0 server, for an anonymous client) are those of the last run.
    """

    def __init__(self, path: Path, *, look_only: bool = False) -> None:
        self._file = LineFile(path, "row", look_only=look_only)
        self.server: str | None = None
        self.guest_token: str | None = None
        self.last: dict[str, Entry] = {}
        try:
            self._file.lock()
            self._file.read(self._take)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def beside(results: Path) -> Path:
        return results.with_name(results.name + ".journal")

    def _take(self, value: Mapping[str, Any]) -> None:
        if value["row"] is None:
            self.server = str(value["server"])
            self.guest_token = value.get("guest_token")
            if value["version"] > _VERSION:
                raise ConfigurationError(f"{self._file.path} is from a newer version of parlant-sync; use that one")
        else:
            entry = Entry.read(value, self.last.get(value["row"]))
            self.last[entry.row] = entry

    def in_flight(self, rows: Iterable[Row], results: Iterable[Result]) -> dict[str, Entry]:
        """The entries of those rows whose last attempt has no result.

        Raises ConfigurationError if a row is not the question any more that its id stood for.
        """
        found: dict[str, Entry] = {}
        over_with = {(result.id, result.started): result for result in results}
        for row in rows:
            entry = self.last.get(row.id)
            if entry is None:
                continue
            result = over_with.get((row.id, entry.started))
            # A row that failed may be corrected and asked again.
            if entry.digest != row.digest and (result is None or result.ok):
                raise ConfigurationError(
                    f"row {row.id!r} is not what it was in an earlier run on these results; "
                    "put back the old text, give changed rows an id of their own, or take another file for the results"
                )
            if result is None:
                found[row.id] = entry
        return found

    def begin(self, server: str, *, used: bool) -> None:
        """Note a run with this server. ``used``: rows of this batch were asked already.

        Raises ConfigurationError if they were asked at another server.
        """
        if self.server == server:
            return
        if used and self.server is not None:
            raise ConfigurationError(
                f"the rows in these results were asked at {self.server}, not at {server}; "
                "go on with that address, or take another file for the results"
            )
        self.server = server
        self._note()

    def check_agents(self, rows: Iterable[Row], agent_id: str | None) -> None:
        """Raises ConfigurationError if a row was asked of another agent. ``agent_id``: for rows that name none."""
        for row in rows:
            wanted = None if row.session_id is not None else row.agent_id or agent_id
            entry = self.last.get(row.id)
            if entry is not None and entry.agent and wanted and entry.agent != wanted:
                raise ConfigurationError(
                    f"row {row.id!r} in these results was asked of the agent {entry.agent!r}, not of {wanted!r}; "
                    "go on with that agent, or take another file for the results"
                )

    def keep_guest_token(self, token: str | None) -> None:
        """Note the token of an anonymous client: later runs need it to see their sessions."""
        if token is not None and token != self.guest_token:
            self.guest_token = token
            self._note()

    def _note(self) -> None:
        token = {"guest_token": self.guest_token} if self.guest_token is not None else {}
        self._file.append([{"row": None, "version": _VERSION, "server": self.server, **token}])

    def write(self, entries: Iterable[Entry]) -> None:
        """Write them to the disk: only then may they be posted. Raises OSError, having written nothing."""
        self._file.append(entry.to_json() for entry in entries)

    def discard(self) -> None:
        """For a run that sends nothing: remove what it has made."""
        self._file.discard()

    def close(self) -> None:
        self._file.close()
