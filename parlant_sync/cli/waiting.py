"""A line at the bottom of a terminal that says that something is being waited for, after the first second of it."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from parlant_sync.cli import output
from parlant_sync.cli.visible import one_line

_PATIENCE = 1.0
_WIDEST = 72


class Waiting:
    """While entered and not hidden, shows ``describe()`` and the seconds; nothing where stderr is no terminal.

    ``hide()`` before anything is printed, ``show()`` when waiting begins again; both take effect at once.
    """

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe
        # Guards what follows and the line on the screen; so, as no other lock, it is held over writes, to stderr.
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._hidden = False
        self._printing = 0  # how many print above the line
        self._drawn = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Waiting:
        if output.is_terminal(sys.stderr):
            # Daemon: it only draws.
            self._thread = threading.Thread(target=self._run, name="parlant-sync-waiting", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        try:
            if self._thread is not None:
                self._thread.join()
        finally:
            self.hide()

    def show(self) -> None:
        with self._lock:
            self._since = time.monotonic()
            self._hidden = False

    def hide(self) -> None:
        with self._lock:
            self._hidden = True
            self._erase()

    @contextlib.contextmanager
    def above(self) -> Iterator[None]:
        """Print here: the line is out of the way, and comes back by itself."""
        with self._lock:
            self._printing += 1
            self._erase()
        try:
            yield
        finally:
            with self._lock:
                self._printing -= 1

    def _run(self) -> None:
        while not self._over.wait(0.25):
            with self._lock:
                seconds = time.monotonic() - self._since
                if not self._hidden and not self._printing and seconds >= _PATIENCE:
                    self._draw(seconds)

    def _draw(self, seconds: float) -> None:
        if not output.knows_escapes():  # cannot take a line back: it gets one, once
            if not self._drawn:
                output.note(self._describe())
        else:
            text = one_line(f"{self._describe()} {seconds:.0f} s", _WIDEST)
            output.note_raw(f"\r\x1b[K{output.dim(text, output.has_colours(sys.stderr))}")
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn and output.knows_escapes():
            self._drawn = False
            output.note_raw("\r\x1b[K")


def waiting_for(what: str) -> Waiting:
    """For a request, or whatever else may take longer than one expects."""
    return Waiting(lambda: f"waiting for {what} ...")
