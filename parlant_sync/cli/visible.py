"""Text from a server, made safe to print: whoever wrote it must not steer the reader's terminal or hide its words."""

from __future__ import annotations

import re

# Newline and tab stay. Made visible are: the other control characters (C0, DEL, C1: escape sequences begin with one of
# them), the marks that reorder what is read (bidi), line and paragraph separators, deprecated and interlinear format
# characters, and lone surrogates, which no encoding can write.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]"
)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def visible(text: str) -> str:
    """``text`` with control, escape and bidi characters written as ``\\x1b`` or ``\\u202e``. Works piece by piece."""
    return _HIDDEN.sub(_escape, text)


def one_line(text: str, limit: int = 600) -> str:
    """The same on a single line, shortened: for messages of one line each."""
    line = visible(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 3] + "..."
