"""Whether a request is right and allowed: its parameters, its token, the production policy and its limits.

Parameters are read as the real server does, down to the shape of its 422 answers.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .httpd import Request
from .versions import Version

Problem = dict[str, Any]
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
        self.problems: list[Problem] = []

    def done(self) -> None:
        """Raises the 422 if something was wrong."""
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
        """A yes or no from the query; no if it is left out."""
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
        """One of several words, from the query or the body; None if it is left out."""
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

    def guidelines(self, values: Mapping[str, Any], name: str) -> None:
        """What the agent is asked to say, and why."""
        at: Where = ("body", name)
        value = values.get(name)
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
    """The body, which must be a JSON object; raises the 422 that says what it is instead."""
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


# --- permissions

PER_MINUTE: dict[str, int] = {
    "read_agent": 30,
    "create_guest_session": 10,
    "read_session": 30,
    "list_events": 240,
    "create_customer_event": 30,
}
"""What ``ProductionAuthorizationPolicy`` allows, and how often in a minute from one address. All else is refused."""


class Policy:
    """Who may do what, and how often: a bearer token, and Parlant's development or production policy.

    In production, 4.0 gives anonymous clients a guest token with their first session. It opens that guest's sessions
    only. The server's own `token` is that of an admin there: nothing is refused or counted.
    """

    def __init__(
        self, name: str, token: str | None, version: Version, limits: Mapping[str, int] | None, window: float
    ) -> None:
        if name not in ("development", "production"):
            raise ValueError(f"policy is 'development' or 'production', not {name!r}")
        self.name = name
        self.token = token
        self.clock: Callable[[], float] = time.monotonic
        self._version = version
        self._guests_allowed = version.compass and name == "production"
        self._guests: dict[str, set[str]] = {}  # the sessions of each guest token
        self._limits = dict(PER_MINUTE if limits is None and name == "production" else limits or {})
        self._window = window
        self._hits: dict[tuple[str, str], deque[float]] = {}

    def check_token(self, request: Request) -> None:
        """Raises the 401 if the token is wrong or missing."""
        bearer = _bearer(request)
        if self._guests_allowed:
            anonymous = (request.method, request.path) == ("POST", "/sessions") or request.path.startswith("/agents/")
            known = bearer in self._guests or self._is_admin(request) or (bearer is None and anonymous)
        else:
            known = self.token is None or bearer == self.token
        if not known:
            raise HttpError(401, "Unauthorized")

    def authorize(self, operation: str, request: Request) -> None:
        """Raises the 403 if the operation is refused, the 429 if it came too often."""
        if self._guests_allowed and self._is_admin(request):
            return
        allowed = {*PER_MINUTE, "cancel_processing"} if self._guests_allowed else PER_MINUTE
        if self.name == "production" and (operation not in allowed or self._is_of_another_guest(request)):
            raise HttpError(403, f"Authorization failed: {_echo(operation, request)}")
        limit = self._limits.get(operation)
        if limit is None:
            return
        now = self.clock()
        hits = self._hits.setdefault((operation, _address(request)), deque())
        while hits and hits[0] <= now - self._window:
            hits.popleft()
        if len(hits) >= limit:
            raise HttpError(429, f"Rate limit exceeded: {_echo(operation, request)}")
        hits.append(now)

    def admit_guest(self, request: Request, session_id: str) -> str | None:
        """Notes whose session this is. Returns a new guest's token; None if no token is to be sent."""
        bearer = _bearer(request)
        if not self._guests_allowed or self._is_admin(request):
            return None
        if bearer in self._guests:
            self._guests[bearer].add(session_id)
            return None
        token = secrets.token_urlsafe(24)
        self._guests[token] = {session_id}
        return token

    def forget_guests(self) -> None:
        """Guest tokens end with a restart, as on a server without a secret."""
        self._guests.clear()

    def _is_admin(self, request: Request) -> bool:
        return self.token is not None and _bearer(request) == self.token

    def _is_of_another_guest(self, request: Request) -> bool:
        _, _, rest = request.path.partition("/sessions/")
        return self._guests_allowed and bool(rest) and rest.split("/")[0] not in self._guests[_bearer(request) or ""]


def _bearer(request: Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token if scheme == "Bearer" else None


def _echo(operation: str, request: Request) -> str:
    # The real server does repeat all headers, credentials included: clients must redact.
    return f"OPERATION={operation}, HEADERS=Headers({request.headers!r})"


def _address(request: Request) -> str:
    for name in ("x-forwarded-for", "x-real-ip", "cf-connecting-ip"):
        if request.headers.get(name):
            return request.headers[name].split(",")[0].strip()
    return request.peer
