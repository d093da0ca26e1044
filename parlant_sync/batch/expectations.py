"""What a row expects of its answer, and what of that an answer does not meet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parlant_sync import ConfigurationError
from parlant_sync.batch.results import GOOD, TurnResult

EXPECT_FIELDS = ("expect_contains", "expect_regex", "expect_outcome", "expect_tool", "expect_seconds")


@dataclass(frozen=True)
class Expect:
    """All of these must be true of a row's answer (the reply to its last message).

    ``contains``: texts that are in it, in upper or lower case. ``regex``: a regular expression that is found in it.
    ``outcome``: ``answered``, ``empty`` or ``human``. ``tools``: tools that were called in the row, as ``service:tool``
    or the tool's name alone. ``seconds``: the most that any turn of the row took.
    """

    contains: tuple[str, ...] = ()
    regex: str | None = None
    outcome: str | None = None
    tools: tuple[str, ...] = ()
    seconds: float | None = None

    def __bool__(self) -> bool:
        return self != NOTHING

    def unmet(self, outcome: str, text: str, turns: Sequence[TurnResult]) -> tuple[str, ...]:
        """A line for each expectation that is not met."""
        found: list[str] = []
        if self.outcome is not None and outcome != self.outcome:
            found.append(f"expected the outcome {self.outcome}, not {outcome}")
        found += [f"expected {part!r} in the text" for part in self.contains if part.casefold() not in text.casefold()]
        if self.regex is not None and re.search(self.regex, text) is None:
            found.append(f"expected the text to match {self.regex!r}")
        called = {str(call.get("tool_id")) for turn in turns for call in turn.tool_calls}
        called |= {name.rpartition(":")[2] for name in called}
        found += [f"expected a call of the tool {tool!r}" for tool in self.tools if tool not in called]
        slowest = max((turn.duration for turn in turns), default=0.0)
        if self.seconds is not None and slowest > self.seconds:
            found.append(f"expected at most {self.seconds:g} s")
        return tuple(found)


NOTHING = Expect()


def read_expectations(row: Mapping[str, Any], where: str) -> Expect:
    """Those of a row. Raises ConfigurationError."""
    given = {name: row[f"expect_{name}"] for name in ("contains", "regex", "outcome", "tool", "seconds")
             if row.get(f"expect_{name}") is not None}  # fmt: skip
    if not given:
        return NOTHING
    regex, outcome, seconds = given.get("regex"), given.get("outcome"), given.get("seconds")
    try:
        if regex is not None:
            re.compile(regex)
    except (TypeError, re.error) as error:
        raise ConfigurationError(f"{where}: expect_regex: {error}") from None
    if outcome is not None and outcome not in GOOD:
        raise ConfigurationError(f"{where}: expect_outcome must be one of {', '.join(GOOD)}, not {outcome!r:.60}")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not seconds > 0):
        raise ConfigurationError(f"{where}: expect_seconds must be a number above 0, not {seconds!r:.60}")
    return Expect(
        contains=_texts(given.get("contains"), f"{where}: expect_contains"),
        regex=regex,
        outcome=outcome,
        tools=_texts(given.get("tool"), f"{where}: expect_tool"),
        seconds=seconds,
    )


def _texts(value: object, what: str) -> tuple[str, ...]:
    if value is None:
        return ()
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) and text for text in texts):
        raise ConfigurationError(f"{what} must be a text or a list of texts, not {value!r:.60}")
    return tuple(texts)
