"""Who may do what, and how often: the token, and Parlant's production policy with its limits per minute."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping

from .checks import HttpError
from .messages import Request
from .versions import Version

PER_MINUTE: dict[str, int] = {
    "read_agent": 30,
    "create_guest_session": 10,
    "read_session": 30,
    "list_events": 240,
    "create_customer_event": 30,
}
"""What ``ProductionAuthorizationPolicy`` allows, and how often in a minute from one address. All else is refused."""


class Policy:
    """Development (all is allowed) or production; plus a bearer token, as servers behind a gateway ask for one."""

    def __init__(
        self, name: str, token: str | None, version: Version, limits: Mapping[str, int] | None, window: float
    ) -> None:
        if name not in ("development", "production"):
            raise ValueError(f"policy is 'development' or 'production', not {name!r}")
        self.name = name
        self.token = token
        self.clock: Callable[[], float] = time.monotonic
        self._version = version
        self._limits = dict(PER_MINUTE if limits is None and name == "production" else limits or {})
        self._window = window
        self._hits: dict[tuple[str, str], deque[float]] = {}

    def check_token(self, request: Request) -> None:
        """401 where the token is wrong or missing."""
        if self.token is not None and request.headers.get("authorization") != f"Bearer {self.token}":
            raise HttpError(401, "Unauthorized")

    def authorize(self, operation: str, request: Request) -> None:
        """403 where the operation is refused, 429 where it came too often."""
        if self.name == "production" and operation not in PER_MINUTE:
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


def _echo(operation: str, request: Request) -> str:
    # The real server does repeat all headers, credentials included: clients must redact.
    return f"OPERATION={operation}, HEADERS=Headers({request.headers!r})"


def _address(request: Request) -> str:
    for name in ("x-forwarded-for", "x-real-ip", "cf-connecting-ip"):
        if request.headers.get(name):
            return request.headers[name].split(",")[0].strip()
    return request.peer
