"""JSON and path segments, in and out. The cost of decoding is bounded, and does not depend on the caller's stack."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from parlant_sync import errors

# Bytes. A shorter body takes less time than the import of orjson, which a short process need not pay for.
_LONG = 16 * 1024
# The most brackets and commas, which show how many values there are: 256 MiB of ``{},{},...`` would become 6 GB, these
# become 0.7 GB at most. 300,000 events have fewer.
MAX_MARKS = 8_000_000
# Python's own limit depends on its stack: a poller could read what a reader cannot. Python 3.12 and 3.13 crash on a
# small stack (``threading.stack_size``), so the depth is checked before anything is decoded.
MAX_DEPTH = 200

_NOT_MARKS = bytes(set(range(256)) - set(b"[]{},"))
_ONE_KIND = bytes.maketrans(b"[]", b"{}")  # for the depth, all brackets are the same
# orjson makes inexact floats of whole numbers that have no 64 bits. Those have at least 19 digits.
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19


def _lenient_int(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:  # longer than Python converts: keep the digits, nothing of ours counts that far
        return digits


# NaN and Infinity are no JSON; as text they survive being written out again.
_decoder = json.JSONDecoder(parse_constant=str)
_lenient_decoder = json.JSONDecoder(parse_constant=str, parse_int=_lenient_int)


_STRING = rb'(?s)"[^"\\]*(?:\\.[^"\\]*)*"'  # a pattern for re, which compiles it if it is ever used


def decode_json(body: bytes | bytearray) -> Any:
    """Return the value of a JSON body. Raises ``ValueError`` for anything else, however it is broken."""
    marks = body.translate(_ONE_KIND, _NOT_MARKS)  # also those in strings, which are few
    if len(marks) > MAX_MARKS:
        raise ValueError(f"more than {MAX_MARKS:,} brackets and commas")
    if len(marks) > MAX_DEPTH and _may_be_deep(marks) and _depth(body) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    try:
        return _decoded(body)
    except MemoryError:
        pass
    raise ValueError("more than there is memory for")  # raised here, where what was read is no longer held


@functools.cache
def _orjson() -> Callable[[bytes | bytearray], Any] | None:
    """``loads`` of the extra "speed", which only ever gives what json gives: see ``_decoded``. None without it."""
    try:
        from orjson import loads
    except Exception:  # also if this process can open no file now
        return None
    found: Callable[[bytes | bytearray], Any] = loads
    return found


def _decoded(body: bytes | bytearray) -> Any:
    """The value, the same with and without orjson: what orjson refuses or would read otherwise, json reads."""
    fast_loads = _orjson() if len(body) >= _LONG else None
    if fast_loads is not None and _LONG_NUMBER not in body.translate(_DIGITS_AS_ZEROS):
        try:
            return fast_loads(body)
        except ValueError:
            pass
    text = body.decode("utf-8", "surrogatepass")
    if text.startswith("\ufeff"):
        text = text[1:]
    try:
        return _decoder.decode(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise ValueError("nested too deeply for this thread's stack") from None
    except ValueError:
        return _lenient_decoder.decode(text)


def _may_be_deep(marks: bytes | bytearray) -> bool:
    """Whether ``_depth`` must look. Brackets in strings count as well, but this takes a hundredth of the time."""
    brackets = marks.translate(None, b",")
    for _ in range(MAX_DEPTH):  # each takes one level away
        outer = brackets.replace(b"{}", b"")
        if len(outer) == len(brackets):
            return len(outer) > MAX_DEPTH
        brackets = outer
    return bool(brackets)


def _depth(body: bytes | bytearray) -> int:
    """How deep lists and objects are in each other."""
    depth = deepest = 0
    for mark in re.sub(_STRING, b"", body).translate(_ONE_KIND, _NOT_MARKS + b","):
        depth += 1 if mark == ord("{") else -1
        deepest = max(deepest, depth)
    return deepest


def is_deep(value: Any, limit: int = MAX_DEPTH) -> bool:
    """Whether lists and objects are in each other more than ``limit`` deep, or without end."""
    level: list[Any] = [value]
    for _ in range(limit + 1):
        containers: dict[int, Any] = {}  # each only once, however often it is referred to
        for each in level:
            if isinstance(each, (dict, list, tuple)):
                containers[id(each)] = each
        if not containers:
            return False
        level = []
        for each in containers.values():
            level += each.values() if isinstance(each, dict) else each
    return True


def segment(value: str, what: str) -> str:
    """``value`` as one path segment. Raises ``ConfigurationError`` if it cannot be one."""
    if value in ("", ".", "..") or not hasattr(value, "encode"):
        raise errors.ConfigurationError(f"{what} must be a non-empty string that names one, not {value!r}")
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        raise errors.ConfigurationError(f"{what} holds characters that have no UTF-8: {value!r}") from None


def is_segment(value: str) -> bool:
    """Whether an id that a server gave can be used in a path."""
    try:
        return bool(segment(value, "an id"))
    except errors.ConfigurationError:
        return False


def encode(body: Any) -> bytes:
    """``body`` as JSON. Raises ``ConfigurationError`` for what has no JSON, or what could not be read again."""
    # It comes back inside a list of events. Checked first, because json.dumps needs the stack as well.
    if is_deep(body, MAX_DEPTH - 10):
        raise errors.ConfigurationError(f"what is to be posted is nested more than {MAX_DEPTH - 10} deep")
    try:
        # A lone surrogate has no UTF-8. Escaped, the server would store it, and then fail at every list of the session.
        return json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise errors.ConfigurationError("what is to be posted holds a lone surrogate, which has no UTF-8") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise errors.ConfigurationError(f"what is to be posted has no JSON: {error}") from None
