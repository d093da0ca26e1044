"""The one file lock: one holder at a time, on every system, and none that is left by a dead one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from parlant_sync import _file_lock
from parlant_sync._file_lock import FileLock

HOLDER = """
import sys
from pathlib import Path
from parlant_sync._file_lock import FileLock
assert FileLock(Path(sys.argv[1])).acquire()
print("READY", flush=True)
sys.stdin.read()
"""


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = FileLock(path), FileLock(path)
    assert first.acquire()
    waited: list[int] = []
    assert not second.acquire(on_wait=lambda: waited.append(0))
    assert not second.acquire(0.2, on_wait=lambda: waited.append(1))
    assert waited == [1]
    # It is released while the other waits, with and without a limit.
    for timeout in (30.0, None):
        assert second.acquire(timeout, on_wait=first.release)
        assert not first.acquire()
        first, second = second, first
    first.release()
    first.release()  # once more is no error
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"READY\n"
        lock = FileLock(tmp_path / "lock")
        assert not lock.acquire()
        assert lock.acquire(30, on_wait=holder.kill)
        lock.release()


def test_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows keeps others from reading what is locked, so a byte behind the end is, and the position stays."""
    locked: set[int] = set()

    def locking(descriptor: int, mode: int, size: int) -> None:
        assert (mode, size) == (2, 1)
        position = os.lseek(descriptor, 0, os.SEEK_CUR)
        if position in locked:
            raise PermissionError
        locked.add(position)

    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(locking=locking, LK_NBLCK=2))
    monkeypatch.setattr(sys, "platform", "win32")
    spec = importlib.util.spec_from_file_location("windows_lock", _file_lock.__file__)
    assert spec is not None
    assert spec.loader is not None
    windows = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(windows)
    with (tmp_path / "journal").open("wb+") as file:
        file.write(b"text")
        file.flush()
        assert windows.try_lock(file.fileno())
        assert not windows.try_lock(file.fileno())
        assert file.tell() == 4
    [byte] = locked
    assert byte == 2**30
