"""Messages from the command line, from stdin and from a terminal, checked before anything is sent."""

from __future__ import annotations

import contextlib
import locale
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

from parlant_sync.cli import output
from parlant_sync.cli.errors import usage
from parlant_sync.cli.output import is_terminal

# More than any agent reads; less than a pipe that never ends.
LARGEST = 1024 * 1024


def read_message(argument: str | None, *, add_stdin: bool = False) -> str:
    """MESSAGE, or stdin if it is ``-`` or left out; with ``add_stdin``, MESSAGE and stdin below it.

    Raises CommandError for what is not a message.
    """
    if argument is not None and argument != "-":
        text = checked(argument, "MESSAGE")
        return checked(f"{text}\n\n{_stdin()}", "MESSAGE with stdin") if add_stdin else text
    if sys.stdin is None or (argument is None and is_terminal(sys.stdin)):
        raise usage('no message: give one as MESSAGE, as in parlant-sync send "What can you do?", or by a pipe')
    return checked(_stdin(), "stdin")


def _stdin() -> str:
    if sys.stdin is None:
        raise usage("stdin is closed")
    return _text(sys.stdin.buffer.read(LARGEST + 1), "stdin")


def has_unread_stdin() -> bool:
    """Whether a pipe or file at stdin holds unread text. Reads nothing."""
    try:
        descriptor = sys.stdin.fileno()
        kind = os.fstat(descriptor)
        if stat.S_ISREG(kind.st_mode):  # a loop's file has been read from
            return kind.st_size > 0 and os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        if not stat.S_ISFIFO(kind.st_mode):
            return False
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return any(found & select.POLLIN for _, found in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no stdin, or Windows
        return False


def read_line(stream: BinaryIO) -> str | None:
    """One line of a pipe as a message; None at the end. Raises CommandError for what is not a message."""
    data = stream.readline(LARGEST + 1)
    return _text(data, "the line") if data else None


def _text(data: bytes, where: str) -> str:
    if len(data) > LARGEST:
        raise usage(f"{where} has more than {LARGEST // 1024} KiB, too much for a message; send less of it")
    if b"\0" in data:
        raise usage(f"{where} holds binary data; send text")
    text = _decode(data, where)
    for ending in ("\r\n", "\n"):
        if text.endswith(ending):
            return text[: -len(ending)]
    return text


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        trouble = error
    own = locale.getpreferredencoding(False)
    if own.lower().replace("-", "") not in ("utf8", "ascii", "us", "ansi_x3.41968"):
        try:
            return data.decode(own)
        except (UnicodeDecodeError, LookupError):
            pass
    raise usage(f"{where} is not UTF-8 text (byte {trouble.start + 1}); convert it first, for example with iconv")


def checked(text: str, where: str) -> str:
    if not text.strip():
        raise usage(f"the message is empty ({where} has only blanks); say something")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise usage(f"{where} is not valid text in this terminal's encoding; give it as UTF-8") from None
    return text


# -- Lines typed at a terminal: edited with readline if it is there, and never cut.

# A terminal that collects lines itself silently drops what follows after this many bytes of a line (Linux).
_LONGEST = 4095
_SETTINGS = (
    # The bytes of UTF-8 are text, and no Meta commands: in the C locale, too, or one that is not installed.
    "set input-meta on",
    "set output-meta on",
    "set convert-meta off",
)
_PASTING = "set enable-bracketed-paste on"  # lines that are pasted together are one message


@contextlib.contextmanager
def editing() -> Iterator[Callable[[str], str]]:
    """Gives a function that prompts for one line, like ``input()``.

    With readline, lines are edited, and what is typed between two prompts is kept in full (Ctrl-D as well) and shown by
    the next one, not in the middle of an answer. Without it, the function raises CommandError for lines that the
    terminal may have cut.
    """
    try:
        import readline
        import termios
    except ImportError:
        yield _unedited
        return
    if "libedit" in (readline.__doc__ or ""):  # it edits, but has settings and ways of its own
        yield _unedited
        return
    for setting in (*_SETTINGS, *([_PASTING] if output.knows_escapes() else [])):
        readline.parse_and_bind(setting)
    before = termios.tcgetattr(0)
    unbuffered = termios.tcgetattr(0)
    unbuffered[3] &= ~termios.ICANON
    unbuffered[6][termios.VMIN], unbuffered[6][termios.VTIME] = 1, 0
    silent = [*unbuffered]
    silent[3] &= ~termios.ECHO

    def read(prompt: str) -> str:
        termios.tcsetattr(0, termios.TCSADRAIN, unbuffered)  # readline echoes only if the terminal did
        try:
            return input(prompt)
        finally:
            termios.tcsetattr(0, termios.TCSADRAIN, silent)

    termios.tcsetattr(0, termios.TCSADRAIN, silent)
    try:
        yield read
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _unedited(prompt: str) -> str:
    return whole(input(prompt))


def whole(line: str) -> str:
    """The line, unchanged. Raises CommandError if the terminal may have cut it."""
    if len(line.encode(errors="surrogateescape")) == _LONGEST:
        raise usage(f"a terminal cuts lines at {_LONGEST} bytes, and this one is that long: send it by a pipe")
    return line
