"""Taking secrets out of what others say. A production server repeats all request headers in its 403 and 429."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

HIDDEN = "[redacted]"
# Of a text that is to become a line no more is looked at: the time of the search for markup grows with its square.
_LOOKED_AT = 8192

# Patterns, not compiled here: re keeps them from their first use on, and most processes have none.
_SENSITIVE = r"(?i)authorization|cookie|token|secret|api[-_]?key|password|credential|signature|auth"
# A header in the ways servers print one: JSON, Python repr, raw tuples, plain "Name: value".
_PRINTED = (
    r"""(?i)((?:proxy-)?authorization|(?:set-)?cookie"""
    # Bounded, and at the beginning of a word alone: else its time grows with the cube of a hostile text's length.
    r"""|(?<![\w-])(?:x|ocp)-[\w-]{0,64}?(?:key|token|secret|auth|jwt|vault|session)[\w-]{0,64})"""
    r"""(\\*["']?\s*[:=,]\s*b?)(\\*"(?:[^"\\]|\\.)*"?|\\*'(?:[^'\\]|\\.)*'?|[^\r\n,})]+)"""
)
_BEARER = r"(?i)\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{4,}"


# What a request of ours carries anyway. Nobody can tell which of the others is a secret: each of them counts as one.
_OPEN = frozenset("accept accept-encoding connection content-length content-type host user-agent".split())
_STRING = r"""b?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# The ``HEADERS=Headers({...})`` of a production server, in both forms that starlette prints.
_DUMP = rf"(?:,\s*)?(?:HEADERS=)?Headers\((?:\{{(?:[\s:,]|{_STRING})*\}}|raw=\[(?:[\s(),]|{_STRING})*\])\)"


def secrets_of(headers: Mapping[str, str | bytes]) -> list[str]:
    """The values of the headers that may be secret, and their parts; longest first."""
    found: set[str] = set()
    for name, value in headers.items():
        if name.lower() in _OPEN:
            continue
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        found.add(text)
        # Short parts only where the name says that they are secrets: else they are likely to be words.
        least = 4 if re.search(_SENSITIVE, name) else 12
        found.update(part for part in re.split(r"[\s;,=]+", text) if len(part) >= least)
    for _ in range(3):  # as servers escape it: a repr inside of JSON inside of JSON; ordinary tokens stay as they are
        found |= {form for secret in found for form in (json.dumps(secret)[1:-1], repr(secret)[1:-1])}
    return sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` without these secrets, and without anything that looks like a credential header."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = re.sub(_PRINTED, lambda m: m.group(1) + m.group(2) + HIDDEN, text)
    return re.sub(_BEARER, lambda m: f"{m.group(1)} {HIDDEN}", text)


def without_headers(text: str) -> str:
    """``text`` without the request's headers, where a server repeats them: what else it says is easier to see."""
    return re.sub(_DUMP, "", text) if "Headers(" in text else text


def shorten(text: str, limit: int = 500) -> str:
    """One line of at most ``limit`` characters, markup and control characters taken out."""
    text = text[:_LOOKED_AT]
    if "<" in text and ">" in text and re.search(r"<\s*(!doctype|html|head|body|title|h1)\b", text, re.I):
        text = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<[^>]*>", " ", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
