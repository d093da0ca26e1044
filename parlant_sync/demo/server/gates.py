"""Gates: a turn waits at one until the test opens it, so that no test has to guess at times."""

from __future__ import annotations

import asyncio
from pathlib import Path

_INTERVAL = 0.02


class Gates:
    """A gate is open when the file with its name exists in *directory*."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    async def passed(self, name: str | None) -> None:
        """Wait until gate *name* is open; None is no gate. Can be cancelled."""
        while name is not None and not (self._directory / name).exists():
            await asyncio.sleep(_INTERVAL)
