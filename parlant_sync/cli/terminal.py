"""What a terminal shows: a line that says what is being waited for, and text wrapped to its width."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from parlant_sync.cli import output
from parlant_sync.cli.output import one_line, visible

if TYPE_CHECKING:
    from parlant_sync import Client

# A wait of less than so many seconds is not mentioned.
_PATIENCE = 1.0
WIDEST = 80
_MOST_CHARACTERS = 1000  # of one word: marks take no column, and a word of them alone would never end


def terminal_width() -> int:
    """Columns to write text in: those of the terminal, but 20 to 80."""
    return max(20, min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns))


def width(text: str) -> int:
    """Columns of the text on a terminal; combining marks take none, ideographs two."""
    return sum(map(_width, text))


def _width(char: str) -> int:
    if char.isascii():
        return 1
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """The text if it fits into so many columns, else its beginning and ``...``."""
    if width(text) <= columns:
        return text
    dots = "..."[: max(columns, 0)]
    left = columns - len(dots)
    for position, char in enumerate(text):
        left -= _width(char)
        if left < 0:
            return text[:position] + dots
    return text


def pad(text: str, columns: int) -> str:
    """The text, with blanks up to so many columns."""
    return text + " " * (columns - width(text))


# Guards the waiting lines that are entered; held for a moment only.
_lines_lock = threading.Lock()
_lines: list[Waiting] = []


@contextlib.contextmanager
def above_lines() -> Iterator[None]:
    """Print here, from any thread: waiting lines are out of the way, and come back by themselves."""
    with _lines_lock:
        lines = list(_lines)
    with contextlib.ExitStack() as stack:
        for line in lines:
            stack.enter_context(line.above())
        yield


class Waiting:
    """While entered and not hidden, shows ``describe()`` and the seconds; nothing if stderr is not a terminal of ours.

    ``limited_for``: the seconds that requests still wait after a 429; they are shown, too.
    ``hide()`` before anything is printed, ``show()`` when waiting begins again; both take effect at once.
    """

    def __init__(self, describe: Callable[[], str], limited_for: Callable[[], float] = lambda: 0.0) -> None:
        self._describe = describe
        self._limited_for = limited_for
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
            with _lines_lock:
                _lines.append(self)
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
            with _lines_lock:
                if self in _lines:
                    _lines.remove(self)
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

    def _text(self, seconds: float) -> str:
        pause = self._limited_for()
        limit = f" (429: next in {pause:.0f} s)" if pause >= 0.5 else ""
        return f"{self._describe()} {seconds:.0f} s{limit}"

    def _draw(self, seconds: float) -> None:
        if not _in_foreground():  # the line would be drawn over the shell's prompt
            self._drawn = False
            return
        if not output.knows_escapes():  # cannot take a line back: it gets one, once
            if not self._drawn:
                output.note(self._describe())
        else:
            # A full line makes some terminals wrap, and then it cannot be taken back.
            text = cut(one_line(self._text(seconds)), _columns(sys.stderr) - 1)
            output.note_raw(f"\r\x1b[K{output.dim(text, output.has_colours(sys.stderr))}")
        self._drawn = True

    def _erase(self) -> None:
        if self._drawn and output.knows_escapes():
            self._drawn = False
            output.note_raw("\r\x1b[K")


def _in_foreground() -> bool:
    """Whether the terminal is ours: a job in the background shares it with the shell."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # Windows; or a terminal that is not the controlling one
        return True


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or WIDEST
    except (OSError, ValueError):
        return WIDEST


def waiting_for(what: str, client: Client | None = None) -> Waiting:
    """For a request, or anything else that may take longer than expected. ``client``: the one that waits."""
    return Waiting(lambda: f"waiting for {what} ...", limited_for(client) if client is not None else lambda: 0.0)


def limited_for(client: Client) -> Callable[[], float]:
    """For ``Waiting``: how long requests of this client still wait after a 429."""
    return lambda: client.stats().limited_for


class Paragraphs:
    """Text that comes in pieces, printed in indented lines of a bounded width; a word is printed once it is whole.

    Feed it pieces, then ``end`` it. ``write`` gets what is to be printed, as soon as that is certain.
    """

    def __init__(self, write: Callable[[str], object], *, indent: str = "    ", columns: int | None = None) -> None:
        self._write = write
        self._indent = indent
        self._columns = (columns or terminal_width()) - 1  # a full line makes some terminals wrap once more
        self._column = 0
        self._word: list[str] = []
        self._word_columns = 0
        self._gap = 0

    def feed(self, piece: str) -> None:
        text = visible(piece).expandtabs(4)
        out: list[str] = []
        for char in text:
            if char == "\n":
                self._put_word(out)
                self._gap = 0
                out.append("\n")
                self._column = 0
            elif char == " ":
                self._put_word(out)
                self._gap += 1
            else:
                columns = _width(char)
                self._word.append(char)
                self._word_columns += columns
                # Scripts without spaces break anywhere, and so do words that no line has room for.
                if (
                    columns == 2
                    or self._word_columns >= self._columns - len(self._indent)
                    or len(self._word) >= _MOST_CHARACTERS
                ):
                    self._put_word(out)
        if out:
            self._write("".join(out))

    def end(self) -> None:
        """Print what is left; the cursor is at the beginning of a line then."""
        out: list[str] = []
        self._put_word(out)
        if self._column:
            out.append("\n")
        self._column, self._gap = 0, 0
        if out:
            self._write("".join(out))

    def _put_word(self, out: list[str]) -> None:
        if not self._word:
            return
        word, columns, gap = "".join(self._word), self._word_columns, self._gap
        self._word, self._word_columns, self._gap = [], 0, 0
        if self._column and self._column + gap + columns > self._columns:
            out.append("\n")
            self._column, gap = 0, 0
        if not self._column:
            out.append(self._indent)
            self._column = len(self._indent)
        out.append(" " * gap + word)
        self._column += gap + columns
