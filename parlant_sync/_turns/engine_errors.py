"""What an engine's ``error`` event says. Its text is foreign and may be large: it is cut first, and never evaluated."""

from __future__ import annotations

import re

from parlant_sync._http.redaction import shorten
from parlant_sync.events import Event

# The end of the text counts most: a traceback ends with the exception.
_LONGEST = 8 * 1024
# Patterns, not compiled here: re keeps them from their first use on, and most processes have none.
# Servers send the repr of a list of lines, with pprint's line breaks: long lines are several literals, without commas.
_LITERAL = r"""(?s)'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)\""""
# A line ends and the next literal begins; the second is less certain, for items that do not end with a line break.
_NEXT_LITERAL = (r"""\\n["'],?\s+(?=["'])""", r"""["'],\s+(?=["'])""")
_ESCAPE = r"(?s)\\(.)"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def error_detail(event: Event) -> str:
    """The text of the error with its traceback, at most 8 kB; empty if the event has none (4.0)."""
    data = event.data.get("data") if isinstance(event.data, dict) else None
    found = data.get("exception") or data.get("message") if isinstance(data, dict) else None
    if isinstance(found, list):
        found = _last_lines(found)
    if not isinstance(found, str):
        return ""
    is_list = found.startswith(("['", '["')) and found.endswith("]")
    if len(found) <= _LONGEST:
        return _text_of(found) if is_list else found
    # The cut may have split a word, or a secret that would not be recognised any more.
    cut = found[-_LONGEST:]
    if not is_list:
        return cut.partition("\n" if "\n" in cut else " ")[2]
    for literal in _NEXT_LITERAL:
        start = re.search(literal, cut)
        if start is not None:
            return _text_of(cut[start.end() :])
    return _text_of(cut[-2] + cut.partition(" ")[2])  # one literal: what is left of it begins like it ends


def _last_lines(lines: list[object]) -> str:
    kept: list[str] = []
    size = 0
    for line in reversed(lines):
        if isinstance(line, str):
            kept.append(line)
            size += len(line)
        if size > _LONGEST:
            break
    return "".join(reversed(kept))


def _text_of(literals: str) -> str:
    """The text that the string literals in a list's repr stand for."""
    text = "".join(single or double for single, double in re.findall(_LITERAL, literals))
    return re.sub(_ESCAPE, lambda found: _ESCAPES.get(found[1], found[1]), text)


def summary_of(detail: str) -> str:
    """The exception in one line, without the traceback above it."""
    lines = detail.split("\n")
    start, in_frame = 0, False
    for number, line in enumerate(lines):
        indented = line[:1] in (" ", "\t")
        if line.startswith("Traceback (") or line == "Traceback:":
            start, in_frame = number + 1, False
        elif indented and (in_frame or line.lstrip().startswith("File ")):
            start, in_frame = number + 1, True
        else:
            in_frame = False
    return shorten(" ".join(" ".join(lines[start:]).split()), 300) or "no detail"
