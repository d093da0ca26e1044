"""Takes secrets out of foreign text. A production server repeats all request headers in its 403 and 429."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus

HIDDEN = "[redacted]"
# As html.escape() does. (The import of html reads a table of entities, which takes a millisecond of every start.)
_HTML_TEXT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_HTML = {**_HTML_TEXT, ord('"'): "&quot;", ord("'"): "&#x27;"}
# Longer texts are cut here, so that no search takes long: the interpreter lock is held meanwhile.
LONGEST = 8192

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


# These headers hold no secret. Each of the others may.
_OPEN = frozenset("accept accept-encoding cache-control connection content-length content-type host user-agent".split())
_STRING = r"""b?(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
# The ``HEADERS=Headers({...})`` of a production server, in both forms that starlette prints.
_DUMP = rf"(?:,\s*)?(?:HEADERS=)?Headers\((?:\{{(?:[\s:,]|{_STRING})*\}}|raw=\[(?:[\s(),]|{_STRING})*\])\)"


def secrets_of(headers: Mapping[str, str | bytes]) -> list[str]:
    """The values of the headers that may be secret, their parts, and the forms in which servers repeat them.

    Longest first.
    """
    found: set[str] = set()
    for name, value in headers.items():
        if name.lower() in _OPEN:
            continue
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        found.add(text)
        # Short parts only where the name says that they are secrets: else they are likely to be words.
        least = 4 if re.search(_SENSITIVE, name) else 12
        found.update(part for part in [*text.split(), *re.split(r"[\s;,=]+", text)] if len(part) >= least)
    found |= {decoded for secret in list(found) for decoded in _decoded(secret)}
    forms = set(found)
    for _ in range(3):  # a repr inside of JSON inside of JSON; ordinary tokens stay as they are
        forms |= {form for secret in forms for form in (json.dumps(secret)[1:-1], repr(secret)[1:-1])}
    for secret in found:
        forms |= {secret.translate(_HTML), secret.translate(_HTML_TEXT), quote(secret, safe=""), quote(secret)}
        forms |= {quote_plus(secret), *_base64_forms(secret)}
    return sorted((form for form in forms if len(form) >= 4), key=len, reverse=True)


def _decoded(secret: str) -> Iterable[str]:
    """User and password, and the password alone, of Basic credentials."""
    try:
        text = base64.b64decode(secret, validate=True).decode()
    except (binascii.Error, ValueError):
        return ()
    return (text, text.partition(":")[2]) if ":" in text and text.isprintable() else ()


def _base64_forms(secret: str) -> Iterable[str]:
    """As it looks in base64, also in the middle of a longer text: at each of the three places in a group."""
    if len(secret) < 8:
        return
    data = secret.encode("utf-8", "replace")
    for at in range(3):
        text = base64.b64encode(b"\0" * at + data).decode()
        text = text[-(-at * 8 // 6) : (at + len(data)) * 8 // 6]  # the characters that depend on no neighbour
        yield text
        yield text.replace("+", "-").replace("/", "_")


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """``text``, cut to ``LONGEST``, without these secrets and without anything that looks like a credential header."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    text = text[:LONGEST]  # after the secrets: half of one would no longer be recognised
    text = re.sub(_PRINTED, lambda m: m.group(1) + m.group(2) + HIDDEN, text)
    return re.sub(_BEARER, lambda m: f"{m.group(1)} {HIDDEN}", text)


def without_headers(text: str) -> str:
    """``text``, without the request's headers if a server repeats them: what else it says is easier to see."""
    return re.sub(_DUMP, "", text[: 8 * LONGEST]) if "Headers(" in text else text


def shorten(text: str, limit: int = 500) -> str:
    """One line of at most ``limit`` characters, markup and control characters taken out."""
    text = text[:LONGEST]
    if "<" in text and ">" in text and re.search(r"<\s*(!doctype|html|head|body|title|h1)\b", text, re.I):
        text = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<[^>]*>", " ", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
