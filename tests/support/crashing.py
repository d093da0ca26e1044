"""A batch in a process of its own that ends without a word at its n-th write, sync or truncation: url, results, n, how.

``how``: before the n-th is done, in its middle (half of a write), or right after it. n = 0 runs to the end.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parlant_sync.batch import journal, run

CRASHED = 77
ROWS = [{"id": f"r{n}", "messages": [f"m{n}.{turn}" for turn in range(1 + n % 3)]} for n in range(3)]


class CrashingOs:
    """``os`` for journal.py alone: the server's sockets are not concerned."""

    def __init__(self, at: int, how: str) -> None:
        self._left = at
        self._how = how

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, fd: int, data: bytes) -> int:
        halfway = data[: len(data) // 2] if self._how == "halfway" else data
        self._step(lambda: os.write(fd, halfway))
        return os.write(fd, data)

    def fsync(self, fd: int) -> None:
        self._step(lambda: os.fsync(fd))
        os.fsync(fd)

    def ftruncate(self, fd: int, size: int) -> None:
        self._step(lambda: os.ftruncate(fd, size))
        os.ftruncate(fd, size)

    def _step(self, what: Callable[[], object]) -> None:
        self._left -= 1
        if self._left == 0:
            if self._how != "before":
                what()
            os._exit(CRASHED)


def main(url: str, results: str, at: str, how: str) -> None:
    journal.os = CrashingOs(int(at), how)  # type: ignore[attr-defined]
    for result in run(ROWS, base_url=url, agent_id="a", results=Path(results), concurrency=2, settle=0.3, timeout=20):
        assert result.ok, result


if __name__ == "__main__":
    main(*sys.argv[1:])
