"""Where a command writes: the answer to stdout, everything else to stderr, made safe for terminals."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class OutputClosed(Exception):
    """The program that reads our stdout has ended: the command then ends silently."""


class OutputFailed(Exception):
    """Stdout cannot be written, for example because the disk is full. The text is the reason."""


def _is_gone(error: OSError) -> bool:
    return isinstance(error, BrokenPipeError) or error.errno in (errno.EPIPE, errno.ECONNRESET)


def is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def has_colours(stream: TextIO | None) -> bool:
    """Whether text may be coloured: at a terminal that can, unless NO_COLOR is set."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and knows_escapes()


def knows_escapes() -> bool:
    """Whether the terminal understands escape sequences: not without TERM, except on Windows, which never sets it."""
    return os.environ.get("TERM") not in (None, "", "dumb", "unknown") or (os.name == "nt" and "TERM" not in os.environ)


def dim(text: str, colours: bool) -> str:
    return f"\x1b[2m{text}\x1b[22m" if colours else text


def bold(text: str, colours: bool) -> str:
    return f"\x1b[1m{text}\x1b[22m" if colours else text


def prepare() -> None:
    """Write characters that the terminal's encoding lacks as escapes, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def check() -> None:
    """Call this before doing something for its answer. Raises OutputFailed if there is no stdout."""
    if sys.stdout is None:
        raise OutputFailed("stdout is closed")


def write(text: str) -> None:
    """To stdout, at once, as it is. Raises OutputClosed, OutputFailed."""
    check()
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except ValueError as error:
        raise OutputFailed(f"stdout is closed ({error})") from None
    except OSError as error:
        _drop_stdout()
        if _is_gone(error):
            raise OutputClosed from None
        raise OutputFailed(error.strerror or str(error)) from None


def flush() -> None:
    """At the end of a command that may have written by other means."""
    if sys.stdout is not None:
        write("")


def answer(text: str) -> None:
    """A text of the server, or about it, and a newline, to stdout."""
    write(visible(text) + "\n")


def answer_json(value: Any) -> None:
    """One object on one line, valid JSON whatever it holds, in ASCII: safe for every terminal and encoding."""
    write(to_json(value) + "\n")


def note(text: str) -> None:
    """A line to stderr. Failing to write it is not an error."""
    note_raw(one_line(text, 2000) + "\n")


def note_raw(text: str) -> None:
    """To stderr, at once, as it is."""
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()


def to_json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _drop_stdout() -> None:
    """Discard what is still in the buffer: Python would report the same failure again at exit."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


# -- Text from a server, made safe to print: its author must not control the terminal or hide text.

# Newline and tab stay. Made visible are: the other control characters (C0, DEL, C1: escape sequences begin with one of
# them), the marks that reorder what is read (bidi), line and paragraph separators, deprecated and interlinear format
# characters, and lone surrogates, which no encoding can write.
# No pattern that is compiled here: most text has none of them.
_HIDDEN = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]"


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def visible(text: str) -> str:
    """``text`` with control, escape and bidi characters written as ``\\x1b`` or ``\\u202e``. Works piece by piece."""
    return text if text.isprintable() else re.sub(_HIDDEN, _escape, text)


def one_line(text: str, limit: int = 600) -> str:
    """The same on a single line, shortened: for messages of one line each."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 3] + "..."


# -- Notices that the reader of stdout has ended, also while nothing is written.


@contextmanager
def when_stdout_closes(call: Callable[[], None]) -> Iterator[None]:
    """Calls ``call`` in another thread when the pipe's other end is closed. Does nothing if stdout is not a pipe."""
    try:
        descriptor = sys.stdout.fileno()
        poll = select.poll()
    except (AttributeError, OSError, ValueError):
        yield  # Windows, or no stdout
        return
    reading, writing = os.pipe()
    poll.register(descriptor, 0)  # errors and hang-ups are always reported
    poll.register(reading, select.POLLIN)

    def watch() -> None:
        found = dict(poll.poll())
        if reading not in found and found.get(descriptor, 0) & (select.POLLERR | select.POLLHUP):
            call()

    # Daemon: leaving wakes it by the pipe; a process that dies in another way need not wait for it.
    watcher = threading.Thread(target=watch, name="parlant-sync-hangup", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        os.close(writing)
        watcher.join()
        os.close(reading)
