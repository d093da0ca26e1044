"""What files that outlive a process need: the one file lock of this package, and folders synced to the disk.

The operating system releases a lock when its process ends, however that ends. It works on POSIX (``flock``) and on
Windows. A lock file stays when it is released: removing it would let two processes lock two different files of the same
name.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

# flock has no timeout, and a thread that blocks in it cannot be called back: a waiter tries again so often, in seconds.
_EVERY = 0.1

if sys.platform == "win32":
    import msvcrt

    # Windows keeps others from reading the bytes that are locked: lock one behind the end (msvcrt counts to 2**31).
    _BYTE = 2**30

    def try_lock(descriptor: int) -> bool:
        """Lock this open file, without waiting; False if another process holds it. Closing it releases the lock."""
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, position, os.SEEK_SET)
        return True

else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Lock this open file, without waiting; False if another process holds it. Closing it releases the lock."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def sync_folder(folder: Path) -> None:
    """Make a new or renamed file in it survive a power failure. Not every file system can do that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class FileLock:
    """A lock on the file ``path``, which is created if missing (mode 0600). Not for use by several threads at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def acquire(self, timeout: float | None = 0.0, on_wait: Callable[[], object] = lambda: None) -> bool:
        """Take the lock; False if another process held it for ``timeout`` seconds (None: wait without limit).

        ``on_wait`` is called once, before waiting. Raises OSError if the file cannot be made or locked.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            if not try_lock(descriptor):
                if timeout == 0:
                    return False
                on_wait()
                if not _wait(descriptor, timeout):
                    return False
            self._descriptor, descriptor = descriptor, -1
            return True
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def release(self) -> None:
        """Let go of the lock. Does nothing if it is not held."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _wait(descriptor: int, timeout: float | None) -> bool:
    deadline = None if timeout is None else time.monotonic() + timeout
    pause = threading.Event()
    while not try_lock(descriptor):
        left = _EVERY if deadline is None else min(_EVERY, deadline - time.monotonic())
        if left <= 0:
            return False
        pause.wait(left)
    return True
