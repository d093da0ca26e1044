"""The library's log on a terminal: one line each on stderr, above the waiting line and never into a prompt."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Iterator

from parlant_sync.cli import output, terminal

_HELD = 20  # of the lines that come during a prompt, the last so many are shown afterwards


class LogLines(logging.Handler):
    """Shows warnings; with ``verbose`` 1 also information, with 2 everything and tracebacks."""

    def __init__(self, verbose: int) -> None:
        super().__init__()
        self._verbose = verbose
        self._holding = False  # this and the next are guarded by the handler's own lock
        self._held: deque[str] = deque(maxlen=_HELD)
        self._old_level = logging.WARNING
        if verbose:
            self.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))

    def start(self) -> None:
        root = logging.getLogger()
        self._old_level = root.level
        if self._verbose:
            root.setLevel(logging.DEBUG if self._verbose > 1 else logging.INFO)
            logging.getLogger("urllib3").setLevel(logging.INFO)  # its debug lines show URLs, and say no more than ours
        self.setLevel(logging.NOTSET if self._verbose else logging.WARNING)
        root.addHandler(self)

    def stop(self) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._old_level)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            if self._verbose < 2:
                text = text.partition("\n")[0]
        except Exception:  # a message whose arguments do not fit
            self.handleError(record)
            return
        if not self._verbose:
            text = f"parlant-sync: warning: {text}"
        if self._holding:
            self._held.append(text)
        else:
            self._show(text)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep lines back while the user types; show them afterwards."""
        with self.lock or contextlib.nullcontext():
            self._holding = True
        try:
            yield
        finally:
            with self.lock or contextlib.nullcontext():
                self._holding = False
                held, self._held = list(self._held), deque(maxlen=_HELD)
            for text in held:
                self._show(text)

    def _show(self, text: str) -> None:
        with terminal.above_lines():
            for line in text.splitlines() if self._verbose > 1 else [text]:
                output.note(line)
