"""Whether a request is allowed: its token, the production policy and its limits."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping

from .httpd import Request
from .validation import HttpError
from .versions import Version

PER_MINUTE: dict[str, int] = {
    "read_agent": 30,
    "create_guest_session": 10,
    "read_session": 30,
    "list_events": 240,
    "create_customer_event": 30,
}
"""What ``ProductionAuthorizationPolicy`` allows, and how often in a minute from one address. All else is refused."""

_GUESTS_ALSO = frozenset({"cancel_processing", "create_status_event", "read_event"})


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
        """Raises the 401 if the token is wrong or missing; where there are guests, a missing one is a 403."""
        bearer = _bearer(request)
        if self._guests_allowed:
            anonymous = (request.method, request.path) == ("POST", "/sessions") or request.path.startswith("/agents/")
            known = bearer in self._guests or self._is_admin(request) or (bearer is None and anonymous)
        else:
            known = self.token is None or bearer == self.token
        if not known and self._guests_allowed and bearer is None:
            raise HttpError(403, "Authorization failed: no token")
        if not known:
            raise HttpError(401, "Unauthorized")

    def authorize(self, operation: str, request: Request) -> None:
        """Raises the 403 if the operation is refused, the 429 if it came too often."""
        if self._guests_allowed and self._is_admin(request):
            return
        allowed = {*PER_MINUTE, *_GUESTS_ALSO} if self._guests_allowed else PER_MINUTE
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
