"""One question of a batch, checked: what is wrong with a row is reported before the first one is sent."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parlant_sync import ConfigurationError
from parlant_sync.batch.expectations import EXPECT_FIELDS, NOTHING, Expect, read_expectations

_TEXTS = ("agent_id", "customer_id", "session_id")
FIELDS = ("id", "message", "messages", *_TEXTS, "metadata", "timeout", *EXPECT_FIELDS)
_MEANT = {"agent": "agent_id", "customer": "customer_id", "session": "session_id"}
# So many errors are listed; more of them say nothing new.
_LISTED = 20


@dataclass(frozen=True)
class Row:
    """One row of a batch: the messages of one conversation, sent one after another, each after the reply to the last.

    ``agent_id`` and ``customer_id`` override what the batch says for all. ``session_id``: a session that exists, in
    place of a new one; rows that name the same are asked in their order. ``metadata`` is kept with the new session and
    with each message. ``timeout``: seconds for the whole row. ``expect``: what the answer must meet. ``columns``: other
    fields of the input, kept with the result.
    """

    id: str
    messages: tuple[str, ...]
    agent_id: str | None = None
    customer_id: str | None = None
    session_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = None
    expect: Expect = NOTHING
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Tells whether a row of the same id is still the same question."""
        said = json.dumps([self.messages, self.session_id], ensure_ascii=True)
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def check_rows(rows: Iterable[Row | Mapping[str, Any] | str]) -> list[Row]:
    """All rows, in their order. Raises one ConfigurationError that names every row that cannot be asked."""
    if isinstance(rows, (str, bytes, Mapping, Row)):
        # One row in place of a list of them: its letters, or its fields, would be asked one by one.
        raise ConfigurationError(f"rows must be a list of rows, not one {type(rows).__name__}; put it into brackets")
    found, trouble = find_rows((f"row {number}", value) for number, value in enumerate(rows, 1))
    refuse(trouble)
    return found


def find_rows(values: Iterable[tuple[str, Row | Mapping[str, Any] | str]]) -> tuple[list[Row], list[str]]:
    """The rows of ``(place, value)``, and what is wrong with those that cannot be asked."""
    found: list[Row] = []
    trouble: list[str] = []
    seen: dict[str, str] = {}
    names: set[str] = set()
    for number, (where, value) in enumerate(values, 1):
        if isinstance(value, Mapping):
            new = [name for name in value if name not in names and name not in FIELDS]
            trouble += [f"{where}: {said}" for said in map(misspelled, new) if said]
            names.update(new)
        try:
            row = check_row(value, number, where)
        except ConfigurationError as error:
            trouble.append(str(error))
            continue
        first = seen.setdefault(row.id, where)
        if first != where:
            trouble.append(f"{where}: its id {row.id!r} is that of {first} already")
        found.append(row)
    return found, trouble


def refuse(trouble: Sequence[str], file: str = "") -> None:
    """Raises one ConfigurationError for all that is wrong, if anything is."""
    if trouble:
        more = f" (and {len(trouble) - _LISTED} more errors like these)" if len(trouble) > _LISTED else ""
        raise ConfigurationError(f"{file}{'; '.join(trouble[:_LISTED])}{more}")


def misspelled(name: object) -> str:
    """What is wrong with the name of a field that is nearly one that a batch knows; empty if it is not."""
    plain = str(name).strip().lower().replace(" ", "_").replace("-", "_")
    meant = _MEANT.get(plain) or next(iter(difflib.get_close_matches(plain, FIELDS, 1, 0.85)), None)
    if meant is None and plain.startswith("expect_"):
        meant = ", ".join(EXPECT_FIELDS)
    return f"the field {name!r} is unknown; did you mean {meant}?" if meant else ""


def check_row(value: Row | Mapping[str, Any] | str, number: int, where: str) -> Row:
    """One row; a text alone is its message."""
    if isinstance(value, str):
        value = {"message": value}
    if isinstance(value, Row):
        # Made by hand: held to the same rules.
        names = ("id", "messages", *_TEXTS, "metadata", "timeout")
        checked = check_row({name: getattr(value, name) for name in names}, number, where)
        return replace(checked, expect=value.expect, columns=value.columns)
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: an object is needed, not {type(value).__name__}")
    given = {name: value[name] for name in FIELDS if value.get(name) is not None}
    texts = {name: _text(given[name], f"{where}: {name}") for name in _TEXTS if name in given}
    return Row(
        id=_id(given.get("id"), where, number),
        messages=_messages(given, where),
        agent_id=texts.get("agent_id"),
        customer_id=texts.get("customer_id"),
        session_id=texts.get("session_id"),
        metadata=_metadata(given.get("metadata"), f"{where}: metadata"),
        timeout=_timeout(given.get("timeout"), where),
        expect=read_expectations(given, where),
        columns={str(name): _plain(value[name]) for name in value if name not in FIELDS},
    )


def _id(value: object, where: str, number: int) -> str:
    if value is None:
        return str(number)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value, f"{where}: id")


def _messages(given: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if ("message" in given) == ("messages" in given):
        raise ConfigurationError(f"{where}: needs message (a text) or messages (a list of texts), one of the two")
    if "message" in given:
        return (_text(given["message"], f"{where}: message"),)
    messages = given["messages"]
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)) or not messages:
        raise ConfigurationError(f"{where}: messages must be a list of texts, not {messages!r:.60}")
    return tuple(_text(message, f"{where}: message {n}") for n, message in enumerate(messages, 1))


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"{what} must be a text that is not empty, not {value!r:.60}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{what} holds characters that have no UTF-8 (lone surrogates)") from None
    return value


def _plain(value: Any) -> Any:
    """A value that JSON can hold."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)
    return value


def _metadata(value: object, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ConfigurationError(f"{what} must be an object, not {value!r:.60}")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{what} cannot be written as JSON: {error}") from None
    return dict(value)


def _timeout(value: object, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ConfigurationError(f"{where}: timeout must be a number of seconds above 0, not {value!r:.60}")
    return float(value)
