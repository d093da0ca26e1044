"""What a terminal shows: a line that says what is being waited for, and text wrapped to its width."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator

from parlant_sync.cli import output
from parlant_sync.cli.output import one_line, visible

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


# -- Text that comes in pieces, printed in lines of a bounded width, indented: a word is written once it is whole.

WIDEST = 80


def terminal_width() -> int:
    return max(20, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def width(text: str) -> int:
    """Columns of the text on a terminal; combining marks take none, ideographs two."""
    return sum(_width(char) for char in text)


def _width(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class Paragraphs:
    """Feed it pieces, then :meth:`end` it. ``write`` gets what is to be printed, as soon as that is certain."""

    def __init__(self, write: Callable[[str], None], *, indent: str = "    ", columns: int | None = None) -> None:
        self._write = write
        self._indent = indent
        self._columns = (columns or terminal_width()) - 1  # a full line makes some terminals wrap once more
        self._column = 0
        self._word = ""
        self._gap = ""

    def feed(self, piece: str) -> None:
        text = visible(piece).expandtabs(4)
        out: list[str] = []
        for char in text:
            if char == "\n":
                self._put_word(out)
                self._gap = ""
                out.append("\n")
                self._column = 0
            elif char == " ":
                self._put_word(out)
                self._gap += " "
            else:
                self._word += char
                # Scripts without spaces break anywhere, and so do words that no line has room for.
                if _width(char) == 2 or width(self._word) >= self._columns - len(self._indent):
                    self._put_word(out)
        if out:
            self._write("".join(out))

    def end(self) -> None:
        """Print what is left; the cursor is at the beginning of a line then."""
        out: list[str] = []
        self._put_word(out)
        if self._column:
            out.append("\n")
        self._column, self._gap = 0, ""
        if out:
            self._write("".join(out))

    def _put_word(self, out: list[str]) -> None:
        word, gap = self._word, self._gap
        if not word:
            return
        self._word, self._gap = "", ""
        columns = width(word)
        if self._column and self._column + len(gap) + columns > self._columns:
            out.append("\n")
            self._column, gap = 0, ""
        if not self._column:
            out.append(self._indent)
            self._column = len(self._indent)
        out.append(gap + word)
        self._column += len(gap) + columns
