"""Lines typed at a terminal: edited with readline where that is there, and never cut."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from parlant_sync.cli import output
from parlant_sync.cli.failures import usage

# A terminal that collects lines itself drops without a word what is behind so many bytes of one (Linux).
_LONGEST = 4095
_SETTINGS = (
    # The bytes of UTF-8 are text, and no Meta commands: in the C locale, too, or one that is not installed.
    "set input-meta on",
    "set output-meta on",
    "set convert-meta off",
)
_PASTING = "set enable-bracketed-paste on"  # lines that are pasted together are one message


@contextlib.contextmanager
def editing() -> Iterator[bool]:
    """From here on ``input()`` edits lines, and what is typed before it is called waits for it in full, Ctrl-D as well.

    Gives False where that cannot be had: lines are then to be checked with :func:`whole`.
    """
    try:
        import readline
        import termios
    except ImportError:
        yield False
        return
    if "libedit" in (readline.__doc__ or ""):  # it edits, but has settings and ways of its own
        yield False
        return
    for setting in (*_SETTINGS, *([_PASTING] if output.knows_escapes() else [])):
        readline.parse_and_bind(setting)
    before = termios.tcgetattr(0)
    unbuffered = termios.tcgetattr(0)
    unbuffered[3] &= ~termios.ICANON
    unbuffered[6][termios.VMIN], unbuffered[6][termios.VTIME] = 1, 0
    termios.tcsetattr(0, termios.TCSADRAIN, unbuffered)
    try:
        yield True
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def whole(line: str) -> str:
    """The line as it is. Raises CommandError where the terminal may have cut it."""
    if len(line.encode(errors="surrogateescape")) == _LONGEST:
        raise usage(f"a terminal cuts lines at {_LONGEST} bytes, and this one is that long: send it by a pipe")
    return line
