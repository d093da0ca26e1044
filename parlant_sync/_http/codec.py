"""JSON and path segments, in and out. The cost of decoding is bounded, and every reader gets the same result."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from parlant_sync import errors

# Of brackets and commas, which tell how many values there are: 256 MiB of ``{},{},...`` would become 6 GB, these become
# 0.7 GB at most. 300,000 events have fewer.
MAX_MARKS = 8_000_000
# Python's own limit depends on how deep its stack is already: the poller could read what a reader cannot.
MAX_DEPTH = 200

_BRACKETS = b"[]{}"
_NOT_MARKS = bytes(set(range(256)) - set(_BRACKETS + b","))


def _lenient_int(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # longer than Python converts: keep the digits, nothing of ours counts that far
        return digits


# NaN and Infinity are no JSON; as text they survive being written out again.
_decoder = json.JSONDecoder(parse_constant=str)
_lenient_decoder = json.JSONDecoder(parse_constant=str, parse_int=_lenient_int)


def decode_json(body: bytes) -> Any:
    """The value of a JSON body. Raises ``ValueError`` for everything that is none, however it is broken."""
    try:
        return _bounded(body)
    except MemoryError:
        pass
    raise ValueError("more than there is memory for")  # here, where nothing holds any more what had been read


def _bounded(body: bytes) -> Any:
    marks = body.translate(None, _NOT_MARKS)  # those in texts, too: few, in what is written to be read
    if len(marks) > MAX_MARKS:
        raise ValueError(f"more than {MAX_MARKS:,} brackets and commas")
    value = _decoded(body)
    if len(marks) > 2 * MAX_DEPTH and _may_be_deep(marks) and is_deep(value):
        raise ValueError("nested too deeply")
    return value


def _decoded(body: bytes) -> Any:
    text = body.decode("utf-8", "surrogatepass")
    if text.startswith("\ufeff"):
        text = text[1:]
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError:
        return _lenient_decoder.decode(text)


def _may_be_deep(marks: bytes) -> bool:
    """Not exact, for brackets in texts count as well, but a hundredth of the time it takes to look at every value."""
    brackets = marks.replace(b",", b"")
    for _ in range(MAX_DEPTH // 2):  # each takes one level away, or two
        outer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(outer) == len(brackets):
            return len(outer) > MAX_DEPTH
        brackets = outer
    return bool(brackets)


def is_deep(value: Any, limit: int = MAX_DEPTH) -> bool:
    """Whether lists and objects are in each other more than ``limit`` deep."""
    level = [value]
    for _ in range(limit + 1):
        level = [each for each in level if isinstance(each, (dict, list, tuple))]
        if not level:
            return False
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    return True


def segment(value: str, what: str) -> str:
    """``value`` as one path segment. Raises :class:`ConfigurationError` for what cannot be one."""
    if value in ("", ".", "..") or not hasattr(value, "encode"):
        raise errors.ConfigurationError(f"{what} must be a non-empty string that names one, not {value!r}")
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        raise errors.ConfigurationError(f"{what} holds characters that have no UTF-8: {value!r}") from None


def encode(body: Any) -> bytes:
    """Raises :class:`ConfigurationError` for what has no JSON, and for what nobody could read again."""
    try:
        # A lone surrogate has no UTF-8. Escaped, the server would store it, and from then on fail at every list of the
        # session: better refused here.
        data = json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise errors.ConfigurationError("what is to be posted holds a lone surrogate, which has no UTF-8") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.ConfigurationError(f"what is to be posted has no JSON: {error}") from None
    if is_deep(body, MAX_DEPTH - 10):  # it comes back in a list of events
        raise errors.ConfigurationError(f"what is to be posted is nested more than {MAX_DEPTH - 10} deep")
    return data
