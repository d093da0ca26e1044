"""Ends the server when it is asked to, or when whoever started it is gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from pathlib import Path
from types import FrameType

# For a server that does not end by itself after its stdin has ended.
_PATIENCE = 5.0


class Ending:
    """Ends the process on SIGTERM and SIGINT, whatever it is doing."""

    def __init__(self, temporary: Path | None) -> None:
        self.serving = False
        self._temporary = temporary

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.serving:
            raise SystemExit(0)
        # While it serves, uvicorn has handlers of its own: it stops, then raises the signal once
        # more, for this one. Going on from here, Parlant would wait for tasks that never end.
        self.clean_up()
        os._exit(0)

    def clean_up(self) -> None:
        if self._temporary is not None:
            os.chdir(os.sep)
            shutil.rmtree(self._temporary, ignore_errors=True)

    def with_stdin(self, orphan: Path | None) -> None:
        """End the process when stdin ends, and remove *orphan*, which nobody else does then."""

        def watch() -> None:
            with contextlib.suppress(OSError):
                while os.read(0, 4096):
                    pass
            self._temporary = self._temporary or orphan
            # Daemon: the end of the process is not to wait for it.
            force = threading.Timer(_PATIENCE, self._force)
            force.daemon = True
            force.start()
            os.kill(os.getpid(), signal.SIGTERM)

        # Daemon: it sits in a read that nothing but the end of stdin ends.
        threading.Thread(target=watch, name="stdin", daemon=True).start()

    def _force(self) -> None:
        self.clean_up()
        os._exit(1)
