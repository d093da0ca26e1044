"""What a test gives is checked when it is given: a mistake that would only show as a test that hangs is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any


def check_text(value: str, what: str) -> str:
    """Returns a text that a server can send. Raises TypeError, ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be a text, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds a lone surrogate: no server can send that; {value!r}") from None
    return value


def check_json(value: Any, what: str) -> None:
    """Raises TypeError or ValueError for a value that has no JSON, or that a server cannot send."""
    try:
        check_text(json.dumps(value, ensure_ascii=False), what)
    except TypeError as error:
        raise TypeError(f"{what} has no JSON: {error}") from None


def check_seconds(value: float, what: str) -> float:
    """Returns a duration in seconds. Raises ValueError if it is negative or endless."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{what} must be 0 or more seconds, not {value!r}")
    return float(value)


def one_of(value: str, choices: Sequence[str], what: str) -> None:
    """Raises ValueError for a word that is not among the choices."""
    if value not in choices:
        raise ValueError(f"{what} is one of {', '.join(map(repr, choices))}; not {value!r}")
