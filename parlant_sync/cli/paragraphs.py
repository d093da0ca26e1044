"""Text that comes in pieces, printed in lines of a bounded width, indented: a word is written once it is whole."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable

from parlant_sync.cli.visible import visible

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
