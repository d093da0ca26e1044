"""Reading parameters as the real server does, down to the shape of its 422 answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .messages import Request
from .versions import Version

Problem = dict[str, Any]
Where = tuple[str | int, ...]

KINDS = ("message", "tool", "status", "custom")
SOURCES = ("customer", "customer_ui", "human_agent", "human_agent_on_behalf_of_ai_agent", "ai_agent", "system")
RATIONALES = ("unspecified", "buy_time", "follow_up")
STATUSES = ("acknowledged", "cancelled", "processing", "ready", "typing", "error")
_NO_FIELDS = "Input should be a valid dictionary or object to extract fields from"


class HttpError(Exception):
    """An answer that is an error: `detail` as JSON, or a bare ``text/plain`` where the real server breaks."""

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
    """Collects what is wrong with a request, so that one 422 tells all of it."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def done(self) -> None:
        """Raises the 422 where something was wrong."""
        if self.problems:
            raise unprocessable(self.problems)

    def _wrong(self, kind: str, where: Where, message: str, value: Any, **context: Any) -> None:
        problem = {"type": kind, "loc": list(where), "msg": message, "input": value}
        self.problems.append({**problem, "ctx": context} if context else problem)

    # --- queries

    def integer(
        self,
        query: Mapping[str, str],
        name: str,
        default: int | None = None,
        *,
        required: bool = False,
        least: int | None = None,
        most: int | None = None,
    ) -> int | None:
        """A whole number from the query."""
        where = ("query", name)
        if name not in query:
            if required:
                self._wrong("missing", where, "Field required", None)
            return default
        text = query[name]
        try:
            number = float(text)
            if not number.is_integer():
                raise ValueError(text)
            value = int(number)
        except (ValueError, OverflowError):
            self._wrong(
                "int_parsing", where, "Input should be a valid integer, unable to parse string as an integer", text
            )
            return default
        if least is not None and value < least:
            self._wrong(
                "greater_than_equal", where, f"Input should be greater than or equal to {least}", text, ge=least
            )
        elif most is not None and value > most:
            self._wrong("less_than_equal", where, f"Input should be less than or equal to {most}", text, le=most)
        return value

    def boolean(self, query: Mapping[str, str], name: str) -> bool:
        """A yes or no from the query; no where it is left out."""
        text = query.get(name, "false").lower()
        if text in ("1", "true", "on", "t", "y", "yes"):
            return True
        if text not in ("0", "false", "off", "f", "n", "no"):
            message = "Input should be a valid boolean, unable to interpret input"
            self._wrong("bool_parsing", ("query", name), message, query[name])
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
        """One of several words, from the query or the body; None where it is left out."""
        if required and name not in values:
            self._wrong("missing", (*at, name), "Field required", dict(values))
        value = values.get(name)
        if (value is None and not (required and name in values)) or value in choices:
            return value
        expected = ", ".join(f"'{c}'" for c in choices[:-1]) + f" or '{choices[-1]}'"
        self._wrong("enum", (*at, name), f"Input should be {expected}", value, expected=expected)
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
                self._wrong("missing", (*at, name), "Field required", dict(values))
            return None
        value = values[name]
        if value is None and not required:
            return None
        if not isinstance(value, str):
            self._wrong("string_type", (*at, name), "Input should be a valid string", value)
            return None
        if longest is not None and len(value) > longest:
            message = f"String should have at most {longest} characters"
            self._wrong("string_too_long", (*at, name), message, value, max_length=longest)
        return value

    def mapping(self, values: Mapping[str, Any], name: str, at: Where = ("body",)) -> dict[str, Any] | None:
        """An object of the body."""
        value = values.get(name)
        if value is None or isinstance(value, dict):
            return value
        self._wrong("dict_type", (*at, name), "Input should be a valid dictionary", value)
        return None

    def participant(self, values: Mapping[str, Any]) -> None:
        """Who a message is of."""
        at: Where = ("body", "participant")
        if (value := values.get("participant")) is None or not self._fields(value, at):
            return
        if not isinstance(value.get("id"), (str, type(None))):
            for _ in range(2):  # an agent's id, or a customer's: it is neither
                self._wrong("string_type", (*at, "id", "str"), "Input should be a valid string", value["id"])
        self.text(value, "display_name", required=True, at=at)

    def guidelines(self, values: Mapping[str, Any]) -> None:
        """What the agent is to say, and why."""
        at: Where = ("body", "guidelines")
        value = values.get("guidelines")
        if not isinstance(value, (list, type(None))):
            self._wrong("list_type", at, "Input should be a valid list", value)
            return
        for number, guideline in enumerate(value or ()):
            where = (*at, number)
            if self._fields(guideline, where):
                self.text(guideline, "action", required=True, at=where)
                if "rationale" in guideline:
                    self.choice(guideline, "rationale", RATIONALES, required=True, at=where)

    def _fields(self, value: Any, at: Where) -> bool:
        if not isinstance(value, dict):
            self._wrong("model_attributes_type", at, _NO_FIELDS, value)
        return isinstance(value, dict)

    def strings(self, values: Mapping[str, Any], name: str, at: Where = ("body",)) -> list[str] | None:
        """A set of strings of the body."""
        value = values.get(name)
        if value is None or (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            return value
        self._wrong("set_type", (*at, name), "Input should be a valid set", value)
        return None


def body_of(request: Request, version: Version) -> dict[str, Any]:
    """The body, which must be a JSON object; raises the 422 that tells what it is instead."""
    if not request.body:
        raise unprocessable([{"type": "missing", "loc": ["body"], "msg": "Field required", "input": None}])
    kind = request.headers.get("content-type", "")
    value: Any
    if "json" not in kind and not (version.prefix_traces and not kind):
        value = request.body.decode(errors="replace")  # newer FastAPI does not guess
    else:
        try:
            value = json.loads(request.body)
        except json.JSONDecodeError as error:
            problem = {"type": "json_invalid", "loc": ["body", error.pos], "msg": "JSON decode error", "input": {}}
            raise unprocessable([{**problem, "ctx": {"error": error.msg}}]) from None
        except (ValueError, RecursionError):
            raise HttpError(400, "There was an error parsing the body") from None
    if not isinstance(value, dict):
        raise unprocessable([{"type": "model_attributes_type", "loc": ["body"], "msg": _NO_FIELDS, "input": value}])
    return value
