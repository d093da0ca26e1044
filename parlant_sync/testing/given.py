"""What a test gives, looked at when it is given: a mistake that only shows as a test that hangs is refused here."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any


def text(value: str, what: str) -> str:
    """A text that a server can send. Raises TypeError, ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds a lone surrogate: no server can send that; {value!r}") from None
    return value


def sendable(value: Any, what: str) -> None:
    """A value that has JSON, and that a server can send."""
    try:
        text(json.dumps(value, ensure_ascii=False), what)
    except TypeError as error:
        raise TypeError(f"{what} has no JSON: {error}") from None


def seconds(value: float, what: str) -> float:
    if not 0 <= value < math.inf:
        raise ValueError(f"{what} must be 0 or more seconds, not {value!r}")
    return float(value)


def one_of(value: str, choices: Sequence[str], what: str) -> None:
    if value not in choices:
        raise ValueError(f"{what} is one of {', '.join(map(repr, choices))}; not {value!r}")
