"""Taking secrets out of what others say. A production server repeats all request headers in its 403 and 429."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

HIDDEN = "[redacted]"

# Patterns, not compiled here: re keeps them from their first use on, and most processes have none.
_SENSITIVE = r"(?i)authorization|cookie|token|secret|api[-_]?key|password|credential|signature|auth"
# A header in the ways servers print one: JSON, Python repr, raw tuples, plain "Name: value".
_PRINTED = (
    r"""(?i)((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]*(?:api[-_]?key|token|secret|auth)[\w-]*)"""
    r"""(\\*["']?\s*[:=,]\s*b?)(\\*"(?:[^"\\]|\\.)*"?|\\*'(?:[^'\\]|\\.)*'?|[^\r\n,})]+)"""
)
_BEARER = r"(?i)\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{4,}"


def secrets_of(headers: Mapping[str, str | bytes]) -> list[str]:
    """The values of the headers that carry credentials, and their parts; longest first."""
    found: set[str] = set()
    for name, value in headers.items():
        if not re.search(_SENSITIVE, name):
            continue
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        found.add(text)
        found.update(part for part in re.split(r"[\s;,=]+", text))
    for _ in range(3):  # as servers escape it: a repr inside of JSON inside of JSON; ordinary tokens stay as they are
        found |= {form for secret in found for form in (json.dumps(secret)[1:-1], repr(secret)[1:-1])}
    return sorted((secret for secret in found if len(secret) >= 4), key=len, reverse=True)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` without these secrets, and without anything that looks like a credential header."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = re.sub(_PRINTED, lambda m: m.group(1) + m.group(2) + HIDDEN, text)
    return re.sub(_BEARER, lambda m: f"{m.group(1)} {HIDDEN}", text)


def shorten(text: str, limit: int = 500) -> str:
    """One line of at most ``limit`` characters, markup and control characters taken out."""
    if "<" in text and ">" in text and re.search(r"<\s*(!doctype|html|head|body|title|h1)\b", text, re.I):
        text = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<[^>]*>", " ", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
