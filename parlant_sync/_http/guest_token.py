"""The token that a Parlant 4.0 server in production gives an anonymous client."""

from __future__ import annotations

import re
from typing import Any

from requests.auth import AuthBase

HEADER = "X-Parlant-Guest-Token"


class GuestToken(AuthBase):
    """Authenticates requests once the server has given a token. False until then. Thread-safe; its repr hides it."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}  # at most one entry, written by single dict operations

    def __call__(self, request: Any) -> Any:
        token = self.value
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    def __bool__(self) -> bool:
        return bool(self._kept)

    def __repr__(self) -> str:
        return "GuestToken([redacted])" if self else "GuestToken()"

    @property
    def value(self) -> str | None:
        return self._kept.get(HEADER)

    def keep(self, token: str) -> bool:
        """Keep the first token. False if another one is kept already. One that cannot be sent is ignored."""
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            return True
        return self._kept.setdefault(HEADER, token) == token

    def forget(self, token: str) -> None:
        """The server does not accept this token any more."""
        if self.value == token:
            self._kept.pop(HEADER, None)
