"""Files that only grow, line by line, and are never left worse than they were: fsync, torn ends, full disks, locks."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from parlant_sync import ConcurrencyError, ConfigurationError

if sys.platform != "win32":
    from fcntl import LOCK_EX, LOCK_NB, flock


class BatchLocked(ConcurrencyError):
    """Another run works on the same results."""


class LineFile:
    """JSON objects, one a line, appended and synced. For one thread at a time.

    ``first`` is how each of its lines begins: what ends without a newline is only cut off where it is one of ours.
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
            self._fd = os.open(path, flags | os.O_EXCL, 0o644)
            self._made = True
        except FileExistsError:
            self._fd = os.open(path, flags, 0o644)
        _opened.add(self)
        if self._made:
            _sync_directory(path.parent)

    def lock(self) -> None:
        """Keep every other run away until this file is closed. Raises BatchLocked at once where one is there."""
        if self._look_only or sys.platform == "win32":
            return  # there, two runs on one file are not kept apart
        try:
            flock(self._fd, LOCK_EX | LOCK_NB)
            gone = os.fstat(self._fd).st_nlink == 0  # discarded by a run that has just ended: its lock keeps nobody off
        except BlockingIOError:
            gone = True
        if gone:
            raise BatchLocked(f"another run is working on {self.path}; wait for its end")

    def read(self, take: Callable[[dict[str, Any]], object]) -> None:
        """Gives ``take`` all it holds. A torn last line is taken off (or completed), after all others were accepted.

        Raises ConfigurationError for anything else that is not ours: ``take`` refuses by KeyError, TypeError,
        ValueError.
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
        """All of them on the disk when this returns; none of them, and the file as it was, where it raises OSError."""
        data = b"".join(json.dumps(value, ensure_ascii=True).encode() + b"\n" for value in values)
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
        """Close, and take the file away if it was not there before. Only for who holds the lock, or needs none."""
        if self._made:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self.close()

    def close(self) -> None:
        """Lets the lock go, too. Idempotent."""
        _opened.discard(self)
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _sync_directory(path: Path) -> None:
    """So that a new file is still there after a power failure; not every system can."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


# A forked worker process must not keep the lock of a parent that was killed: it lets go of its copies.
_opened: weakref.WeakSet[LineFile] = weakref.WeakSet()


def _after_fork() -> None:
    for file in list(_opened):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
