"""Whether a request is right: its parameters and its body, read as the real server does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .httpd import Request
from .versions import Version

Where = tuple[str | int, ...]

KINDS = ("message", "tool", "status", "custom")
SOURCES = ("customer", "customer_ui", "human_agent", "human_agent_on_behalf_of_ai_agent", "ai_agent", "system")
RATIONALES = ("unspecified", "buy_time", "follow_up")
STATUSES = ("acknowledged", "cancelled", "processing", "ready", "typing", "error")
_NO_FIELDS = "Input should be a valid dictionary or object to extract fields from"


class HttpError(Exception):
    """An answer that is an error: `detail` as JSON, or a bare ``text/plain`` if the real server breaks there."""

    def __init__(self, status: int, detail: Any, plain: bool = False) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        self.plain = plain


def broken() -> HttpError:
    """What an exception inside the real server looks like from outside."""
    return HttpError(500, "Internal Server Error", plain=True)


def unprocessable(detail: Any) -> HttpError:
    """A 422."""
    return HttpError(422, detail)


class Checks:
    """Collects what is wrong with a request, so that one 422 lists all of it."""

    def __init__(self) -> None:
        self.problems: list[dict[str, Any]] = []

    def done(self) -> None:
        """Raises the 422 if something was wrong."""
        if self.problems:
            raise unprocessable(self.problems)

    def _wrong(self, kind: str, where: Where, message: str) -> None:
        self.problems.append({"type": kind, "loc": list(where), "msg": message})

    def _missing(self, where: Where) -> None:
        self._wrong("missing", where, "Field required")

    # --- queries

    def integer(
        self, query: Mapping[str, str], name: str, default: int | None = None, *, required: bool = False
    ) -> int | None:
        """A whole number from the query."""
        where = ("query", name)
        if name not in query:
            if required:
                self._missing(where)
            return default
        try:
            number = float(query[name])
            if number.is_integer():
                return int(number)
        except ValueError:
            pass
        self._wrong("int_parsing", where, "Input should be a valid integer, unable to parse string as an integer")
        return default

    def boolean(self, query: Mapping[str, str], name: str) -> bool:
        """A yes or no from the query; no if it is left out."""
        text = query.get(name, "false").lower()
        if text in ("1", "true", "on", "t", "y", "yes"):
            return True
        if text not in ("0", "false", "off", "f", "n", "no"):
            message = "Input should be a valid boolean, unable to interpret input"
            self._wrong("bool_parsing", ("query", name), message)
        return False

    def choice(
        self,
        values: Mapping[str, Any],
        name: str,
        choices: Sequence[str],
        *,
        required: bool = False,
        at: Where = ("query",),
    ) -> str | None:
        """One of several words, from the query or the body; None if it is left out."""
        if required and name not in values:
            self._missing((*at, name))
        value = values.get(name)
        if (value is None and not (required and name in values)) or value in choices:
            return value
        expected = ", ".join(f"'{c}'" for c in choices[:-1]) + f" or '{choices[-1]}'"
        self._wrong("enum", (*at, name), f"Input should be {expected}")
        return None

    # --- bodies

    def text(
        self,
        values: Mapping[str, Any],
        name: str,
        *,
        required: bool = False,
        longest: int | None = None,
        at: Where = ("body",),
    ) -> str | None:
        """A string of the body."""
        if name not in values:
            if required:
                self._missing((*at, name))
            return None
        value = values[name]
        if value is None and not required:
            return None
        if not isinstance(value, str):
            self._wrong("string_type", (*at, name), "Input should be a valid string")
            return None
        if longest is not None and len(value) > longest:
            self._wrong("string_too_long", (*at, name), f"String should have at most {longest} characters")
        return value

    def mapping(self, values: Mapping[str, Any], name: str) -> dict[str, Any] | None:
        """An object of the body."""
        value = values.get(name)
        if value is None or isinstance(value, dict):
            return value
        self._wrong("dict_type", ("body", name), "Input should be a valid dictionary")
        return None

    def strings(self, values: Mapping[str, Any], name: str) -> list[str] | None:
        """A set of strings of the body."""
        value = values.get(name)
        if value is None or (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            return value
        self._wrong("set_type", ("body", name), "Input should be a valid set")
        return None

    def participant(self, values: Mapping[str, Any]) -> None:
        """Who a message is of."""
        at: Where = ("body", "participant")
        if (value := values.get("participant")) is None or not self._fields(value, at):
            return
        if not isinstance(value.get("id"), (str, type(None))):
            for _ in range(2):  # an agent's id, or a customer's: it is neither
                self._wrong("string_type", (*at, "id", "str"), "Input should be a valid string")
        self.text(value, "display_name", required=True, at=at)

    def guidelines(self, values: Mapping[str, Any], name: str) -> None:
        """What the agent is asked to say, and why."""
        at: Where = ("body", name)
        value = values.get(name)
        if not isinstance(value, (list, type(None))):
            self._wrong("list_type", at, "Input should be a valid list")
            return
        for number, guideline in enumerate(value or ()):
            where = (*at, number)
            if self._fields(guideline, where):
                self.text(guideline, "action", required=True, at=where)
                if "rationale" in guideline:
                    self.choice(guideline, "rationale", RATIONALES, required=True, at=where)

    def _fields(self, value: Any, at: Where) -> bool:
        if not isinstance(value, dict):
            self._wrong("model_attributes_type", at, _NO_FIELDS)
        return isinstance(value, dict)


def body_of(request: Request, version: Version) -> dict[str, Any]:
    """The body, which must be a JSON object; raises the 422 that says what it is instead."""
    if not request.body:
        raise unprocessable([{"type": "missing", "loc": ["body"], "msg": "Field required"}])
    kind = request.headers.get("content-type", "")
    value: Any = None  # newer FastAPI does not guess that it is JSON
    if "json" in kind or (version.prefix_traces and not kind):
        try:
            value = json.loads(request.body)
        except json.JSONDecodeError as error:
            raise unprocessable(
                [{"type": "json_invalid", "loc": ["body", error.pos], "msg": "JSON decode error"}]
            ) from None
        except (ValueError, RecursionError):
            raise HttpError(400, "There was an error parsing the body") from None
    if not isinstance(value, dict):
        raise unprocessable([{"type": "model_attributes_type", "loc": ["body"], "msg": _NO_FIELDS}])
    return value
