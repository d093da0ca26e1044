"""Credentials: puts them on a request that needs some, and finds the secrets of one that failed."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from parlant_sync._http import redaction
from parlant_sync._settings import check_token
from parlant_sync.errors import TransportError

if TYPE_CHECKING:
    from parlant_sync._http.connection import RunningRequest

# With which a server gives an anonymous client its token.
GUEST_HEADER = "X-Parlant-Guest-Token"


class TokenSource(AuthBase):
    """Puts the bearer token on a request. Calls a callable each time, so that the token can rotate. Shows no secret."""

    def __init__(self, token: str | Callable[[], str], base_url: str) -> None:
        self.rotates = callable(token)
        self._base_url = base_url
        self._ask: Callable[[], str] = token if callable(token) else lambda: token
        self.header = ""  # the one sent last

    def __call__(self, request: Any) -> Any:
        try:
            token = self._ask()
        except Exception as error:
            raise TransportError(
                f"nothing was sent to {self._base_url}: the callable given as token= failed with "
                f"{type(error).__name__}; check where it gets the token from"
            ) from error
        check_token(token, "what the callable given as token= returns")
        self.header = request.headers["Authorization"] = f"Bearer {token}"
        return request

    def __repr__(self) -> str:
        return "TokenSource([redacted])"


class GuestToken(AuthBase):
    """The token that a Parlant 4.0 server in production gives an anonymous client.

    Thread-safe; its repr hides the token.
    """

    def __init__(self) -> None:
        # Empty, or the header that brought it and the token. Changed by single dict operations.
        self.kept: dict[str, str] = {}

    def __call__(self, request: Any) -> Any:
        token = self.value
        if token is not None:
            request.headers["Authorization"] = f"Bearer {token}"
        return request

    def __repr__(self) -> str:
        return "GuestToken([redacted])" if self.kept else "GuestToken()"

    @property
    def value(self) -> str | None:
        return self.kept.get(GUEST_HEADER)

    def keep(self, token: str) -> bool:
        """Keep the first token. False if another one is kept already. One that cannot be sent is ignored."""
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            return True
        return self.kept.setdefault(GUEST_HEADER, token) == token

    def forget(self, token: str) -> None:
        """The server does not accept this token any more."""
        if self.value == token:
            self.kept.pop(GUEST_HEADER, None)


def _no_auth(request: Any) -> Any:
    """Instead of no ``auth`` at all, with which requests would read netrc."""
    return request


class RequestAuth(AuthBase):
    """Authenticates one request, as the last step before it goes, and notes it in its slot with all its headers."""

    def __init__(self, auth: Any, slot: RunningRequest, base_url: str) -> None:
        """``auth``: a callable, ``(user, password)``, or None."""
        self._auth = _no_auth if auth is None else auth if callable(auth) else HTTPBasicAuth(*auth)
        self._slot = slot
        self._base_url = base_url

    def __call__(self, request: Any) -> Any:
        try:
            request = self._auth(request)
        except BaseException:
            self._slot.seen = True  # it may ask a server itself, and fail at that: of our request nothing has gone
            raise
        if self._slot.deadline is not None and self._slot.deadline.expired():
            self._slot.seen = True
            raise TransportError(
                f"nothing was sent to {self._base_url}: the time was over when the token (or the auth object) was "
                "ready; give the call more time, or let the callable keep its token"
            )
        self._slot.request = request
        return request


def secrets(request: Any, proxy: str | None) -> list[str]:
    """All that may be secret of what went to the server in ``request``, if there was one, and to ``proxy``."""
    sent: Mapping[str, str | bytes] = {} if request is None else request.headers
    return redaction.secrets_of({**sent, **_credentials(proxy or "")})


def _credentials(proxy: str) -> dict[str, str]:
    try:
        user, password = requests.utils.get_auth_from_url(proxy)
        written = urlsplit(proxy).password or ""
    except ValueError:
        return {}
    if not password:
        return {}
    basic = b64encode(f"{user}:{password}".encode("latin-1", "replace")).decode()
    return {"Proxy-Authorization": f"Basic {basic}", "Proxy-Secret": password, "Proxy-Secret-Written": written}
